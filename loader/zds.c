// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: the command line and the loop. See zds.h. */
#include "zds.h"
#include "usage-zds.h" /* made from usage-zds.txt */
#include <libgen.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#define WATCHES (PEERS + 8)

struct config config = {
	.pin_dir = "/sys/fs/bpf/onramp",
	.socket = "/var/run/ztunnel/ztunnel.sock",
	.dir = "/var/lib/onramp/workloads",
};

static struct {
	int fd; /* -1: free */
	void (*act)(int fd);
} watches[WATCHES];

static int loop;
static __u64 wake_at;

__u64 now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ULL + time.tv_nsec / 1000000;
}

void wake_in(unsigned int milliseconds)
{
	__u64 then = now() + milliseconds;

	if (then < wake_at)
		wake_at = then;
}

void watch(int fd, void (*act)(int fd))
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	for (int i = 0; i < WATCHES; i++) {
		if (watches[i].fd >= 0)
			continue;
		watches[i].fd = fd;
		watches[i].act = act;
		if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event))
			die("epoll: %s", strerror(errno));
		return;
	}
	die("epoll: too much to watch");
}

void unwatch(int fd)
{
	for (int i = 0; i < WATCHES; i++)
		if (watches[i].fd == fd)
			watches[i].fd = -1;
	close(fd); /* which epoll forgets then: nobody else has it */
}

void watch_rests(int fd, bool rests)
{
	struct epoll_event event = { .events = rests ? 0 : EPOLLIN, .data.fd = fd };

	epoll_ctl(loop, EPOLL_CTL_MOD, fd, &event);
}

/*
 * Whether a line may be written: if nobody reads a pipe, or what becomes of it, that would
 * take for ever; what cannot be said is left out.
 */
static bool may_say(void)
{
	struct pollfd error = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&error, 1, 0) > 0 && error.revents & POLLOUT;
}

static void say(const char *prefix, const char *format, va_list args)
{
	char line[1024];

	if (!may_say())
		return;
	vsnprintf(line, sizeof(line), format, args);
	/* What others say is in it: one line stays one line. */
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = '?';
	fprintf(stderr, "%s%s\n", prefix, line);
}

void log_event(const char *event, const char *format, ...)
{
	char prefix[64];
	va_list args;

	snprintf(prefix, sizeof(prefix), "event=%s ", event);
	va_start(args, format);
	say(prefix, format, args);
	va_end(args);
}

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say("onramp-zds: ", format, args);
	va_end(args);
	exit(1);
}

static void print_and_end(const char *text)
{
	fputs(text, stdout);
	exit(fflush(stdout) ? 1 : 0);
}

/* DIR's neighbour. */
static const char *status_dir(const char *dir)
{
	char *copy = strdup(dir), *path;

	if (!copy || asprintf(&path, "%s/status", dirname(copy)) < 0)
		die("no memory");
	free(copy);
	return path;
}

/* Gives -m, or NULL. */
static const char *options_read(int argc, char **argv)
{
	const char *metrics = NULL;
	int letter;

	if (argc == 2 && !strcmp(argv[1], "--version"))
		print_and_end("onramp-zds " VERSION "\n");
	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help")))
		print_and_end(usage);
	while ((letter = getopt_long(argc, argv, short_options, long_options, NULL)) > 0) {
		switch (letter) {
		case 'p':
			config.pin_dir = optarg;
			break;
		case 's':
			config.socket = optarg;
			break;
		case 'w':
			config.dir = optarg;
			break;
		case 'm':
			metrics = optarg;
			break;
		case 'l':
			config.alive = optarg;
			break;
		case 'v':
			config.verbose = true;
			break;
		default:
			die("%s: not like this: see onramp-zds help", argv[optind - 1 - !!optarg]);
		}
	}
	if (argv[optind])
		die("%s: onramp-zds takes no such argument", argv[optind]);
	config.status_dir = status_dir(config.dir);
	return metrics;
}

/* Told at once, and not when the first pod comes. */
static void capabilities_check(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const __u32 wanted = 1U << CAP_SYS_ADMIN | 1U << CAP_SYS_PTRACE;
	struct __user_cap_data_struct has[_LINUX_CAPABILITY_U32S_3] = {};

	if (syscall(SYS_capget, &header, has) || (has[0].effective & wanted) != wanted)
		die("not permitted: give " CAPABILITIES);
}

/* A pod has a descriptor each. */
static void descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void end(int signal)
{
	(void)signal;
	_exit(0);
}

static void handle(const struct epoll_event *events, int count)
{
	for (int i = 0; i < count; i++)
		for (int j = 0; j < WATCHES; j++)
			if (watches[j].fd == events[i].data.fd) {
				watches[j].act(watches[j].fd);
				break;
			}
}

static void go_round(void)
{
	struct epoll_event events[WATCHES];
	__u64 time = now();
	int count;

	count = epoll_wait(loop, events, WATCHES, wake_at > time ? wake_at - time : 0);
	if (count < 0 && errno != EINTR)
		die("epoll: %s", strerror(errno));
	wake_at = now() + BEAT;
	handle(events, count);
	bpf_tick();
	bpf_kubelet_tick();
	files_tick();
	pods_step();
	outside_step();
	peers_tick();
	peers_tell();
	http_tick();
}

int main(int argc, char **argv)
{
	const char *metrics = options_read(argc, argv);

	for (int i = 0; i < WATCHES; i++) watches[i].fd = -1;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, end);
	signal(SIGINT, end);
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	umask(077);
	capabilities_check();
	descriptors_raise();
	loop = epoll_create1(EPOLL_CLOEXEC);
	if (loop < 0)
		die("epoll: %s", strerror(errno));
	bpf_open();
	files_open();
	if (metrics)
		http_open(metrics);
	peers_open();
	log_event("ready", "socket=%s workloads=%s", config.socket, config.dir);
	for (;;) go_round();
}
