// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * bench - both ends of the connections that scripts/bench times.
 *
 *   bench proxy [-c CPU] PORT           asks SO_ORIGINAL_DST of every connection,
 *                                       and answers what its requests ask for
 *   bench client [OPTION]... IP PORT    times connections, prints a JSON object
 *   bench exec [-c CPU] N               nanoseconds of a fork, exec and exit
 *   bench fill MAP N                    puts N entries into a pinned map
 *
 * Options of client, N in milliseconds where not said otherwise:
 *   -o IP:PORT  the original destination that the proxy must be told; without
 *               it there must be none. A connection of which that is not so ends
 *               all with exit status 1.
 *   -p PID      the proxy, for its CPU time        -c CPU  run there
 *   -1 N        short connections by one client    -2 N    the same by two
 *   -r N        round trips on one connection      -b N    bulk data on one
 *   -g N        getsockopt() of something else than SO_ORIGINAL_DST
 *   -n N        so many short connections, -m N so many round trips instead
 *   -l N        first opens N connections and keeps them, 10,000 of them to IP (which
 *               is IPv4), as many to the next address, and so on
 *   -V          sockets are IPV6_V6ONLY
 *   -W          each short connection is closed by FIN, and so is in TIME_WAIT after
 *   -S          with the kernel's accounting of BPF programs on
 *
 * IP decides the family of sockets; IPv4 may be written IPv4-mapped. A short
 * connection is: socket, connect, 32 bytes there, 56 back, and close by RST. The client holds no
 * TIME_WAIT then, of which 28,232 would stop node mode, and neither end has state left over that
 * would make the next one differ; it is also the shortest, so that what is added to it shows most.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SO_ORIGINAL_DST 80
#define MAX_FDS (1 << 18)
#define MAX_SAMPLES (1 << 20)
#define BULK (256 << 10)
#define PORTS 10000 /* of 28,232: the second half of them is slow to search */
#define WARM_UP 64  /* connections or round trips */

union name {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct wish {
	struct in6_addr ip; /* IPv4: mapped */
	__be16 port;
	__u16 pad[3];
};

struct request {
	struct wish said; /* whom the client dialled; zero: not redirected */
	__u64 bulk;	  /* bytes that follow */
};

struct answer {
	struct wish said, seen; /* seen: SO_ORIGINAL_DST; zero: none */
	__u64 wrong;
};

static struct {
	struct wish original;
	clockid_t proxy;
	bool has_proxy, time_wait, v6only;
	int cpu, one, two, round, bulk, getsockopt, count, trips, live;
} opt = { .cpu = -1 };

static __u64 now_of(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return at.tv_sec * 1000000000ULL + at.tv_nsec;
}

static __u64 now(void)
{
	return now_of(CLOCK_MONOTONIC);
}

static void die(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

/*
 * Both ends share one CPU, so that a connection's cost is that CPU's time and
 * nothing waits for another to wake up. SCHED_BATCH: the proxy, when it is woken
 * within the client's connect(), does not interrupt it. The priority is against
 * what else runs here.
 */
static void settle(int cpu)
{
	struct sched_param none = {};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (cpu >= 0 && sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	sched_setscheduler(0, SCHED_BATCH, &none);
	setpriority(PRIO_PROCESS, 0, -20);
}

static union name parse(const char *ip, const char *port)
{
	union name name = { .v6 = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(port)) } };

	if (inet_pton(AF_INET6, ip, &name.v6.sin6_addr) == 1)
		return name;
	name.any.sa_family = AF_INET; /* the port is in the same place */
	if (inet_pton(AF_INET, ip, &name.v4.sin_addr) != 1) {
		fprintf(stderr, "bench: %s: not an IP address\n", ip);
		exit(2);
	}
	return name;
}

static socklen_t name_size(const union name *name)
{
	return name->any.sa_family == AF_INET6 ? sizeof(name->v6) : sizeof(name->v4);
}

static struct wish wish_of(const union name *name)
{
	struct wish wish = { .port = name->v4.sin_port };

	if (name->any.sa_family == AF_INET6) {
		wish.ip = name->v6.sin6_addr;
		return wish;
	}
	wish.ip.s6_addr[10] = 0xff;
	wish.ip.s6_addr[11] = 0xff;
	wish.ip.s6_addr32[3] = name->v4.sin_addr.s_addr;
	return wish;
}

static void raise_limit(void)
{
	struct rlimit limit = { MAX_FDS, MAX_FDS };

	if (setrlimit(RLIMIT_NOFILE, &limit)) { /* CAP_SYS_RESOURCE */
		getrlimit(RLIMIT_NOFILE, &limit);
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* The proxy. */

static struct {
	struct wish seen;
	__u64 bulk;
	struct request request;
} conns[MAX_FDS];

static int listen_on(const char *port)
{
	union name name = parse("::", port);
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0 && errno == EAFNOSUPPORT) {
		name = parse("0.0.0.0", port);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (bind(fd, &name.any, name_size(&name)) || listen(fd, 4096))
		die(port);
	return fd;
}

static void take(int epoll, int listener)
{
	union name peer, original = {};
	socklen_t size = sizeof(original), peer_size = sizeof(peer);
	/* ztunnel asks who it is, too. */
	int fd = accept4(listener, &peer.any, &peer_size, SOCK_NONBLOCK);

	if (fd < 0 && errno == EAGAIN)
		return;
	if (fd < 0 || fd >= MAX_FDS)
		die("accept");
	memset(&conns[fd], 0, sizeof(conns[fd]));
	if (!getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &original, &size) ||
	    !getsockopt(fd, SOL_IPV6, SO_ORIGINAL_DST, &original, &size))
		conns[fd].seen = wish_of(&original);
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd,
		  &(struct epoll_event){ .events = EPOLLIN, .data.fd = fd });
}

static void answer(int fd)
{
	static char buffer[BULK];
	struct answer answer = { .said = conns[fd].request.said, .seen = conns[fd].seen };
	ssize_t got;

	if (conns[fd].bulk) {
		got = read(fd, buffer, conns[fd].bulk < BULK ? conns[fd].bulk : BULK);
		if (got > 0)
			conns[fd].bulk -= got;
	} else {
		got = read(fd, &conns[fd].request, sizeof(struct request));
		answer.said = conns[fd].request.said;
		conns[fd].bulk = got > 0 ? conns[fd].request.bulk : 0;
	}
	if (got <= 0) {
		if (got == 0 || errno != EAGAIN)
			close(fd);
		return;
	}
	if (conns[fd].bulk)
		return;
	answer.wrong = !!memcmp(&answer.said, &answer.seen, sizeof(answer.seen));
	if (write(fd, &answer, sizeof(answer)) != sizeof(answer))
		close(fd);
}

static _Noreturn void proxy(const char *port)
{
	struct epoll_event events[64];
	int listener = listen_on(port), epoll;

	epoll = epoll_create1(0);
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener,
		  &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener });
	puts("ready");
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(epoll, events, 64, -1);

		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;

			if (fd == listener)
				take(epoll, fd);
			else
				answer(fd);
		}
	}
}

/* The client. */

static __u32 *samples;
static __u32 sampled;
static union name to;

static void sample(__u64 ns)
{
	if (sampled < MAX_SAMPLES)
		samples[sampled++] = ns < ~0U ? ns : ~0U;
}

static int compare(const void *a, const void *b)
{
	__u32 x = *(const __u32 *)a, y = *(const __u32 *)b;

	return (x > y) - (x < y);
}

static __u32 quantile(__u32 percent)
{
	return sampled ? samples[(__u64)(sampled - 1) * percent / 100] : 0;
}

static int socket_make(void)
{
	int fd = socket(to.any.sa_family, SOCK_STREAM, 0);

	if (opt.v6only)
		setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int));
	return fd;
}

/* Returns the socket and how long connect() took. */
static int dial(__u64 *took)
{
	int fd = socket_make();
	__u64 start = now();

	if (connect(fd, &to.any, name_size(&to)))
		die("connect");
	*took = now() - start;
	return fd;
}

/* One question; the proxy must have seen what it should have. */
static void ask(int fd, __u64 bulk)
{
	static char buffer[BULK];
	struct request request = { .said = opt.original, .bulk = bulk };
	char seen[INET6_ADDRSTRLEN];
	struct answer answer;
	ssize_t got;

	if (write(fd, &request, sizeof(request)) != sizeof(request))
		die("write");
	while (bulk) {
		got = write(fd, buffer, bulk < BULK ? bulk : BULK);
		if (got <= 0)
			die("write");
		bulk -= got;
	}
	if (read(fd, &answer, sizeof(answer)) != sizeof(answer))
		die("read");
	if (answer.wrong) {
		inet_ntop(AF_INET6, &answer.seen.ip, seen, sizeof(seen));
		fprintf(stderr, "bench: the proxy was told [%s]:%u as the original destination\n",
			seen, ntohs(answer.seen.port));
		exit(1);
	}
}

static void reset_at_close(int fd)
{
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 },
		   sizeof(struct linger));
}

static void hang_up(int fd)
{
	reset_at_close(fd);
	close(fd);
}

static void one_short(bool keep_time)
{
	__u64 took;
	int fd = dial(&took);

	ask(fd, 0);
	if (opt.time_wait)
		close(fd);
	else
		hang_up(fd);
	if (keep_time)
		sample(took);
}

static __u64 cpu_time(void)
{
	return now_of(CLOCK_PROCESS_CPUTIME_ID) + (opt.has_proxy ? now_of(opt.proxy) : 0);
}

/* For as long, or as often; returns how often. */
static __u32 short_connections(int ms, int count)
{
	__u64 end = now() + ms * 1000000ULL;
	__u32 done = 0;

	do {
		one_short(true);
		done++;
	} while (count ? done < (__u32)count : now() < end);
	return done;
}

/* Per second of CPU time: what else runs here does not count. */
static void by_one(void)
{
	__u32 done;
	__u64 cpu;

	sampled = 0;
	for (int i = 0; i < WARM_UP && !opt.count; i++) one_short(false);
	cpu = cpu_time();
	done = short_connections(opt.one, opt.count);
	cpu = cpu_time() - cpu;
	qsort(samples, sampled, sizeof(*samples), compare);
	printf(", \"connect_p50\": %u, \"connect_p99\": %u, \"short\": %.1f, \"cpu\": %.1f"
	       ", \"connections\": %u",
	       quantile(50), quantile(99), done * 1e9 / cpu, (double)cpu / done, done);
}

/* The second client on another CPU, where there is one: what they share shows. */
static void by_two(void)
{
	int other = (opt.cpu + 1) % sysconf(_SC_NPROCESSORS_ONLN), pipes[2], status;
	__u32 done, theirs = 0;
	__u64 start;
	pid_t child;

	if (pipe(pipes))
		die("pipe");
	fflush(stdout);
	start = now();
	child = fork();
	if (!child) {
		settle(opt.cpu < 0 ? -1 : other);
		done = short_connections(opt.two, 0);
		_exit(write(pipes[1], &done, sizeof(done)) != sizeof(done));
	}
	done = short_connections(opt.two, 0);
	waitpid(child, &status, 0);
	start = now() - start;
	if (status || read(pipes[0], &theirs, sizeof(theirs)) != sizeof(theirs))
		exit(1);
	printf(", \"short2\": %.1f", (done + theirs) * 1e9 / start);
}

static void round_trips(void)
{
	__u64 took, start, end;
	int fd = dial(&took);

	setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &(int){ 1 }, sizeof(int));
	for (int i = 0; i < WARM_UP && !opt.trips; i++) ask(fd, 0);
	sampled = 0;
	end = now() + opt.round * 1000000ULL;
	do {
		start = now();
		ask(fd, 0);
		sample(now() - start);
	} while (opt.trips ? sampled < (__u32)opt.trips : now() < end);
	hang_up(fd);
	qsort(samples, sampled, sizeof(*samples), compare);
	printf(", \"latency\": %u", quantile(50));
}

/* As by_one(). */
static void bulk_data(void)
{
	__u64 took, end, cpu, bytes = 0;
	int fd = dial(&took);

	ask(fd, 16 * BULK); /* until the windows have opened */
	end = now() + opt.bulk * 1000000ULL;
	cpu = cpu_time();
	do {
		ask(fd, 16 * BULK);
		bytes += 16 * BULK;
	} while (now() < end);
	printf(", \"throughput\": %.0f", bytes * 1e9 / (cpu_time() - cpu));
	hang_up(fd);
}

static void getsockopts(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), type, times = 200;
	__u64 end = now() + opt.getsockopt * 1000000ULL, start;

	sampled = 0;
	do {
		start = now();
		for (int i = 0; i < times; i++)
			getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){ sizeof(type) });
		sample((now() - start) * 10 / times); /* tenths */
	} while (now() < end);
	close(fd);
	qsort(samples, sampled, sizeof(*samples), compare);
	printf(", \"getsockopt\": %.1f", quantile(50) / 10.0);
}

/* The connections from one to another, by a process that keeps them; how many. */
static int live_process(int from, int until)
{
	const union name first = to;
	int kept = 0, fd, pipes[2];

	if (pipe(pipes))
		die("pipe");
	fflush(stdout);
	if (fork()) {
		close(pipes[1]);
		if (read(pipes[0], &kept, sizeof(kept)) != sizeof(kept))
			exit(1); /* it has said why */
		close(pipes[0]);
		return kept;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = from; i < until; i++, kept++) {
		to.v4.sin_addr.s_addr = htonl(ntohl(first.v4.sin_addr.s_addr) + i / PORTS);
		if (opt.original.port)
			opt.original.ip = wish_of(&to).ip;
		fd = socket_make();
		if (fd < 0 || connect(fd, &to.any, name_size(&to)))
			break;
		reset_at_close(fd);
		ask(fd, 0);
	}
	if (write(pipes[1], &kept, sizeof(kept)) == sizeof(kept))
		pause();
	_exit(1);
}

/* As many connections as asked for, or as there is room for. */
static void keep_live(void)
{
	struct rlimit limit;
	int kept = 0, share, now_kept;

	getrlimit(RLIMIT_NOFILE, &limit);
	share = limit.rlim_cur - 16;
	while (kept < opt.live) {
		share = share < opt.live - kept ? share : opt.live - kept;
		now_kept = live_process(kept, kept + share);
		kept += now_kept;
		if (now_kept < share)
			break;
	}
	printf(", \"live\": %d", kept);
}

static void account(void)
{
	union bpf_attr attr = { .enable_stats.type = BPF_STATS_RUN_TIME };

	if (syscall(__NR_bpf, BPF_ENABLE_STATS, &attr, sizeof(attr)) < 0)
		die("BPF_ENABLE_STATS");
}

/* IP:PORT, where IP may have colons. */
static struct wish wish_read(char *text)
{
	char *colon = strrchr(text, ':');
	union name name;

	if (!colon) {
		fprintf(stderr, "bench: %s: give IP:PORT\n", text);
		exit(2);
	}
	*colon = 0;
	name = parse(text, colon + 1);
	return wish_of(&name);
}

static int client(const char *ip, const char *port)
{
	to = parse(ip, port);
	samples = malloc(MAX_SAMPLES * sizeof(*samples));
	memset(samples, 1, MAX_SAMPLES * sizeof(*samples)); /* no page faults later */
	/* What stalls ends all. */
	alarm(60 + (opt.one + opt.two + opt.round + opt.bulk) / 100 + opt.live / 1000 +
	      opt.count / 1000);
	printf("{ \"on_cpu\": %d", opt.cpu);
	if (opt.live)
		keep_live();
	if (opt.one || opt.count)
		by_one();
	if (opt.two)
		by_two();
	if (opt.round || opt.trips)
		round_trips();
	if (opt.bulk)
		bulk_data();
	if (opt.getsockopt)
		getsockopts();
	puts(" }");
	return 0;
}

static int execs(int times)
{
	char *args[] = { "bench", "true", NULL }, *none[] = { NULL };
	int status;
	__u64 start;
	pid_t pid;

	samples = calloc(times, sizeof(*samples));
	for (int i = 0; i < times; i++) {
		start = now();
		pid = fork();
		if (!pid) {
			execve("/proc/self/exe", args, none);
			_exit(1);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			die("exec");
		sample(now() - start);
	}
	qsort(samples, sampled, sizeof(*samples), compare);
	printf("{ \"exec\": %u }\n", quantile(50));
	return 0;
}

/*
 * Keys are numbers, or addresses from ::ffff:172.16.0.0 on, or these with 128
 * bits in front, by their size; the values are 1 and zeros.
 */
static int fill(const char *path, __u32 entries)
{
	union bpf_attr attr = { .pathname = (__u64)path };
	struct bpf_map_info info = {};
	__u8 key[64] = {}, value[512] = { 1 };
	int map = syscall(__NR_bpf, BPF_OBJ_GET, &attr, sizeof(attr));

	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = map;
	attr.info.info_len = sizeof(info);
	attr.info.info = (__u64)&info;
	if (map < 0 || syscall(__NR_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) ||
	    info.key_size > sizeof(key) || info.value_size > sizeof(value))
		die(path);
	for (__u32 i = 0; i < entries; i++) {
		__be32 ip = htonl(172U << 24 | 16 << 16 | i);
		__u64 id = 1ULL << 40 | i;

		if (info.key_size < 16) {
			memcpy(key, &id, info.key_size);
		} else {
			*(__u32 *)key = info.key_size == 20 ? 128 : 0;
			memset(key + info.key_size - 6, 0xff, 2);
			memcpy(key + info.key_size - 4, &ip, sizeof(ip));
		}
		memset(&attr, 0, sizeof(attr));
		attr.map_fd = map;
		attr.key = (__u64)key;
		attr.value = (__u64)value;
		if (syscall(__NR_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)))
			die(path);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	pid_t pid;
	int option;

	if (!strcmp(what, "true"))
		return 0;
	signal(SIGPIPE, SIG_IGN);
	raise_limit();
	argv++, argc--;
	while ((option = getopt(argc, argv, "o:p:c:1:2:r:b:g:n:m:l:SVW")) > 0) {
		int number = optarg ? atoi(optarg) : 0;

		switch (option) {
		case 'o':
			opt.original = wish_read(optarg);
			break;
		case 'p':
			pid = number;
			opt.has_proxy = !clock_getcpuclockid(pid, &opt.proxy);
			break;
		case 'c':
			opt.cpu = number;
			break;
		case '1':
			opt.one = number;
			break;
		case '2':
			opt.two = number;
			break;
		case 'r':
			opt.round = number;
			break;
		case 'b':
			opt.bulk = number;
			break;
		case 'g':
			opt.getsockopt = number;
			break;
		case 'n':
			opt.count = number;
			break;
		case 'm':
			opt.trips = number;
			break;
		case 'l':
			opt.live = number;
			break;
		case 'V':
			opt.v6only = true;
			break;
		case 'W':
			opt.time_wait = true;
			break;
		case 'S':
			account();
			break;
		default:
			return 2;
		}
	}
	settle(opt.cpu);
	argv += optind, argc -= optind;
	if (!strcmp(what, "proxy") && argc == 1)
		proxy(argv[0]);
	if (!strcmp(what, "client") && argc == 2)
		return client(argv[0], argv[1]);
	if (!strcmp(what, "exec") && argc == 1)
		return execs(atoi(argv[0]));
	if (!strcmp(what, "fill") && argc == 2)
		return fill(argv[0], atoi(argv[1]));
	fputs("bench: see the top of vmtests/bench.c\n", stderr);
	return 2;
}
