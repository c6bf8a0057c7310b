// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp - the two ends that the suites need, each saying what it sees.
 *
 *   tcp serve ADDR PORT...     answers each connection with one line: local=
 *                              peer= orig4= orig6= (SO_ORIGINAL_DST) on= (its own
 *                              PORT, which need not be local's)
 *   tcp share ADDR PORT...     the same, letting others listen beside it
 *   tcp both ADDR PORT...      as share, and answers datagrams with their port
 *   tcp web ADDR PORT...       the same as an HTTP answer; prints each, with the
 *                              request's User-Agent
 *   tcp dial ADDR PORT [N]     connects, prints dialled= (getpeername), local=
 *                              and the server's line; N times, a line each
 *   tcp steps ADDR PORT        dials once per line read from standard input
 *   tcp again ADDR PORT ADDR2 PORT2
 *                              one socket: fails or not, then AF_UNSPEC, then
 *                              dials the second destination
 *   tcp abandon ADDR PORT FROM connects without blocking from local port FROM
 *                              and closes at once
 *   tcp from PORT ADDR PORT2   dials from local port PORT
 *   tcp flood N ADDR PORT      begins N connections without blocking, prints how
 *                              many began, and holds them while it may read
 *   tcp udp ADDR PORT          connects UDP and prints its getpeername
 *   tcp many N ADDR PORT...    dials these in turn, N times in all and until its
 *                              standard input ends; prints how many the proxy
 *                              answered with the right original destination, how
 *                              many were direct, wrong, failed
 *   tcp some N ADDR PORT...    the same N times only, and ends with its input
 *   tcp each N ADDR PORT       the same of N addresses, from that one on, once
 *   tcp early N ADDR PORT      N times connects, sends a byte and closes
 *   tcp soak MS FATE ADDR PORT...
 *                              the same each MS ms until its standard input ends;
 *                              prints each second what is new. Of what has another
 *                              fate than proxied or direct (or any: either) it
 *                              says from when to when it took
 *   tcp ask MS FATE ADDR PORT...
 *                              the same of datagrams, by sendto() and by connect();
 *                              port 15053 is the proxy's
 *   tcp opens NETNS...         how many handshakes the kernel has begun in these
 *                              netns (files), as it counts them itself
 *   tcp in CGROUP NETNS COMMAND...
 *                              goes into the cgroup (its cgroup.procs) and the netns
 *                              (a file), and becomes the command: nsenter and sh
 *                              would be two more to execute, which an emulated
 *                              machine is slow at
 *
 * Exit status 1 and the errno's name where a connection failed.
 */
#include "fates.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>

#define SO_ORIGINAL_DST 80

static const char *original(int fd, int level)
{
	union name name = {};
	socklen_t size = level == SOL_IP ? sizeof(name.v4) : sizeof(name.v6);

	if (getsockopt(fd, level, SO_ORIGINAL_DST, &name, &size))
		return strerrorname_np(errno);
	return show(&name);
}

/* Reads the request, logs, and puts the answer's head before the line. */
static void make_http(int fd, char *line, size_t room)
{
	static const char header[] = "\r\nUser-Agent: ";
	char request[2048], body[512];
	const char *agent;
	size_t size = 0;

	request[0] = 0;
	while (size < sizeof(request) - 1 &&
	       poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 1000) > 0) {
		ssize_t got = read(fd, request + size, sizeof(request) - 1 - size);

		request[size += got > 0 ? got : 0] = 0;
		if (got <= 0 || strstr(request, "\r\n\r\n") || strncmp(request, "GET", 3))
			break; /* all is here, or it is not HTTP at all */
	}
	agent = strcasestr(request, header) ?: "";
	agent += *agent ? strlen(header) : 0;
	printf("agent=%.*s %s", (int)strcspn(agent, "\r"), agent, line);
	fflush(stdout);
	strcpy(body, line);
	snprintf(line, room,
		 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
		 strlen(body), body);
}

static void answer(int fd, bool web, const char *port)
{
	union name local = {}, peer = {};
	socklen_t size = sizeof(local);
	char line[1024];
	int used;

	getsockname(fd, &local.any, &size);
	size = sizeof(peer);
	getpeername(fd, &peer.any, &size);
	used = snprintf(line, 512, "local=%s peer=%s ", show(&local), show(&peer));
	used += snprintf(line + used, 512 - used, "orig4=%s ", original(fd, SOL_IP));
	snprintf(line + used, 512 - used, "orig6=%s on=%s\n", original(fd, SOL_IPV6), port);
	if (web)
		make_http(fd, line, sizeof(line));
	if (write(fd, line, strlen(line)) < 0)
		perror("tcp: write");
	/* Until the client has closed: with its data unread, close() would reset. */
	shutdown(fd, SHUT_WR);
	while (poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 200) > 0 &&
	       read(fd, line, sizeof(line)) > 0)
		;
	close(fd);
}

static void answer_datagram(int fd, const char *port)
{
	union name peer = {};
	socklen_t size = sizeof(peer);
	char none;

	if (recvfrom(fd, &none, 1, 0, &peer.any, &size) >= 0)
		sendto(fd, port, strlen(port), 0, &peer.any, size);
}

static int listen_at(const char *ip, const char *port, int type, int share)
{
	union name name = parse(ip, port);
	int fd = socket(name.any.sa_family, type, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &share, sizeof(share));
	if (!bind(fd, &name.any, length(&name)) && (type == SOCK_DGRAM || !listen(fd, 4096)))
		return fd;
	fprintf(stderr, "tcp: %s port %s: %s\n", ip, port, strerror(errno));
	exit(1);
}

static int serve(const char *what, const char *ip, char **ports, int count)
{
	bool web = !strcmp(what, "web"), both = !strcmp(what, "both");
	bool share = both || !strcmp(what, "share");
	struct pollfd fds[32] = {};

	for (int i = 0; i < count; i++) {
		fds[i].fd = listen_at(ip, ports[i], SOCK_STREAM, share);
		fds[count + i].fd = both ? listen_at(ip, ports[i], SOCK_DGRAM, share) : -1;
		fds[i].events = fds[count + i].events = POLLIN;
	}
	puts("ready");
	fflush(stdout);
	while (poll(fds, 2 * count, -1) > 0)
		for (int i = 0; i < count; i++) {
			int fd = fds[i].revents ? accept(fds[i].fd, NULL, NULL) : -1;

			if (fd >= 0)
				answer(fd, web, ports[i]);
			if (fds[count + i].revents)
				answer_datagram(fds[count + i].fd, ports[i]);
		}
	return 1;
}

static int dial(const union name *to, int from)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (from) {
		union name local = parse(to->any.sa_family == AF_INET ? "0.0.0.0" : "::", "0");

		local.v4.sin_port = htons(from);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
		if (bind(fd, &local.any, length(&local)))
			return failed();
	}
	if (connect_within(fd, to)) {
		int err = failed();

		close(fd);
		return err;
	}
	return converse(fd);
}

static void dial_and_judge(const union name *to, struct tally *tally)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	enum fate fate = FAILED;
	double began = now();
	char line[512] = "";

	errno = 0;
	if (!connect_within(fd, to))
		fate = fate_of(fd, to, line, sizeof(line));
	else if (snprintf(line, sizeof(line), "%s", strerrorname_np(errno)))
		close(fd);
	judge(tally, began, to, fate, line);
}

static void ask_and_judge(union name *to, bool by_connect, struct tally *tally)
{
	int fd = socket(to->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct timeval limit = { .tv_sec = 2 };
	union name from = {};
	socklen_t size = sizeof(from);
	enum fate fate = FAILED;
	double began = now();
	char line[512] = "", text[100] = "";
	bool answered = false;
	int tries = 2;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (by_connect && connect(fd, &to->any, length(to)))
		tries = 0;
	/* As a resolver does: where packets are dropped for want of room, one may be. */
	while (!answered && tries-- > 0 &&
	       sendto(fd, "?", 1, 0, by_connect ? NULL : &to->any, by_connect ? 0 : length(to)) > 0)
		answered = recvfrom(fd, text, sizeof(text) - 1, 0, &from.any, &size) >= 0;
	if (!answered) {
		snprintf(line, sizeof(line), "%s", strerrorname_np(errno));
	} else {
		snprintf(line, sizeof(line), "from %s: %s", show(&from), text);
		fate = strcmp(show(&from), show(to)) ? WRONG :
		       strcmp(text, "15053")	     ? DIRECT :
						       PROXIED;
	}
	close(fd);
	judge(tally, began, to, fate, line);
}

/* A pause now and then leaves room for what is to happen meanwhile. */
static bool goes_on(const char *how, long n, long number)
{
	struct pollfd told = { .fd = 0, .events = POLLIN };

	if (!strcmp(how, "some") || !strcmp(how, "each"))
		return n < number;
	if (strcmp(how, "many"))
		return !n || !poll(&told, 1, number);
	return n % 16 || !poll(&told, 1, 10) || n < number;
}

/* The address that comes n after it. */
static union name further(union name name, long n)
{
	uint32_t *last = &name.v6.sin6_addr.s6_addr32[3];

	if (name.any.sa_family == AF_INET)
		last = &name.v4.sin_addr.s_addr;
	*last = htonl(ntohl(*last) + n);
	return name;
}

/* Dials these in turn, or asks: "many", "some", "each", "soak" or "ask". */
static int load(const char *how, long number, enum fate wanted, char **ends, int count)
{
	bool ask = !strcmp(how, "ask"), lasting = ask || !strcmp(how, "soak");
	bool each = !strcmp(how, "each");
	struct tally tally = { .wanted = wanted };
	union name to[16];
	double told = 0;
	char end;

	for (int i = 0; i < count; i++) to[i] = parse(ends[2 * i], ends[2 * i + 1]);
	for (long n = 0; goes_on(how, n, number); n++) {
		union name one = each ? further(to[0], n) : to[n % count];

		if (ask)
			ask_and_judge(&one, n / count % 2, &tally);
		else
			dial_and_judge(&one, &tally);
		if (lasting && now() - told >= 1) {
			told = now();
			tell("", &tally);
		}
	}
	tell("", &tally);
	return !strcmp(how, "some") && read(0, &end, 1) < 0;
}

static int early(long count, const union name *to)
{
	for (; count > 0; count--) {
		int fd = socket(to->any.sa_family, SOCK_STREAM, 0);

		if (connect_within(fd, to) || send(fd, "x", 1, 0) != 1)
			return failed();
		close(fd);
	}
	return 0;
}

static int flood(long count, const union name *to)
{
	struct rlimit files;
	long begun = 0;
	char end;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	for (long i = 0; i < count; i++) {
		int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

		begun += connect(fd, &to->any, length(to)) && errno == EINPROGRESS;
	}
	printf("%ld begun\n", begun);
	fflush(stdout);
	return read(0, &end, 1) < 0;
}

/* TCP's ActiveOpens, the fifth number of its line. */
static long opens_here(void)
{
	FILE *snmp = fopen("/proc/thread-self/net/snmp", "r");
	char line[1024];
	long opens = -1;

	while (snmp && fgets(line, sizeof(line), snmp) && opens < 0)
		sscanf(line, "Tcp: %*d %*d %*d %*d %ld", &opens);
	if (snmp)
		fclose(snmp);
	return opens;
}

static int opens(char **netns)
{
	long sum = 0;

	for (; *netns; netns++) {
		int fd = open(*netns, O_RDONLY);
		long here = fd < 0 || setns(fd, CLONE_NEWNET) ? -1 : opens_here();

		if (here < 0)
			return failed();
		close(fd);
		sum += here;
	}
	printf("%ld\n", sum);
	return 0;
}

static int enter(char **argv)
{
	int procs = open(argv[0], O_WRONLY), netns = open(argv[1], O_RDONLY | O_CLOEXEC);

	if (procs >= 0 && netns >= 0 && !setns(netns, CLONE_NEWNET) && write(procs, "0", 1) == 1) {
		close(procs);
		execvp(argv[2], argv + 2);
	}
	fprintf(stderr, "tcp in %s %s %s: %m\n", argv[0], argv[1], argv[2]);
	return 127;
}

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[1] : "";
	/* A number comes first. */
	bool many = !strcmp(what, "many") || !strcmp(what, "some") || !strcmp(what, "each");
	bool from = !strcmp(what, "from") || !strcmp(what, "flood") || !strcmp(what, "early");
	union name to = {};
	char line[16];
	int err = 0, fd;

	if (argc > 4 && !strcmp(what, "in"))
		return enter(argv + 2);
	signal(SIGPIPE, SIG_IGN);
	if (argc > 2 && !strcmp(argv[1], "opens"))
		return opens(argv + 2);
	if (many && argc % 2 && argc > 4 && argc < 38)
		return load(what, atol(argv[2]), FATES, argv + 3, argc / 2 - 1);
	if ((!strcmp(what, "soak") || !strcmp(what, "ask")) && !(argc % 2) && argc > 5 && argc < 38)
		return load(what, atol(argv[2]), fate_named(argv[3]), argv + 4, argc / 2 - 2);
	if (argc > 3 + from)
		to = parse(argv[2 + from], argv[3 + from]);
	if (!strcmp(what, "serve") || !strcmp(what, "share") || !strcmp(what, "both") ||
	    !strcmp(what, "web"))
		return serve(what, argv[2], argv + 3, argc - 3);
	if (!strcmp(what, "dial")) {
		for (int n = argc > 4 ? atoi(argv[4]) : 1; n > 0; n--) err |= dial(&to, 0);
		return err;
	}
	if (!strcmp(what, "steps")) {
		while (fgets(line, sizeof(line), stdin)) err |= dial(&to, 0);
		return err;
	}
	if (!strcmp(what, "again") && argc == 6) {
		union name then = parse(argv[4], argv[5]), none = { .any.sa_family = AF_UNSPEC };

		fd = socket(to.any.sa_family, SOCK_STREAM, 0);
		if (connect_within(fd, &to))
			failed();
		else if (read(fd, line, 1) == 1)
			puts("connected");
		connect(fd, &none.any, sizeof(none));
		if (connect_within(fd, &then))
			return failed();
		return converse(fd);
	}
	if (!strcmp(what, "abandon") && argc == 5) {
		union name local = parse("0.0.0.0", argv[4]);

		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
		if (bind(fd, &local.any, length(&local)))
			return failed();
		connect(fd, &to.any, length(&to));
		return close(fd);
	}
	if (!strcmp(what, "flood") && argc == 5)
		return flood(atol(argv[2]), &to);
	if (!strcmp(what, "early") && argc == 5)
		return early(atol(argv[2]), &to);
	if (from && argc == 5)
		return dial(&to, atoi(argv[2]));
	if (!strcmp(what, "udp")) {
		socklen_t size = sizeof(to);

		fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
		if (connect(fd, &to.any, length(&to)) || getpeername(fd, &to.any, &size))
			return failed();
		printf("dialled=%s\n", show(&to));
		return 0;
	}
	fputs("tcp: see the top of vmtests/tcp.c\n", stderr);
	return 2;
}
