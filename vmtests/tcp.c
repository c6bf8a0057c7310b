// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp - the two ends that the suites need, each saying what it sees.
 *
 *   tcp serve ADDR PORT...     answers each connection with one line:
 *                              local= peer= orig4= orig6= (SO_ORIGINAL_DST)
 *   tcp dial ADDR PORT [N]     connects, prints dialled= (getpeername), local=
 *                              and the server's line; N times, a line each
 *   tcp steps ADDR PORT        dials once per line read from standard input
 *   tcp again ADDR PORT ADDR2 PORT2
 *                              one socket: fails or not, then AF_UNSPEC, then
 *                              dials the second destination
 *   tcp abandon ADDR PORT FROM connects without blocking from local port FROM
 *                              and closes at once
 *   tcp from PORT ADDR PORT2   dials from local port PORT
 *   tcp udp ADDR PORT          connects UDP and prints its getpeername
 *
 * Exit status 1 and the errno's name where a connection failed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SO_ORIGINAL_DST 80
#define TIMEOUT_MS 10000

union name {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static union name parse(const char *ip, const char *port)
{
	const char *scope = strchr(ip, '%'); /* fe80::1%eth0 */
	char copy[64] = "";
	union name name = {};

	strncpy(copy, ip, sizeof(copy) - 1);
	if (scope && (name.v6.sin6_scope_id = if_nametoindex(scope + 1)))
		copy[scope - ip] = 0, ip = copy;
	if (inet_pton(AF_INET, ip, &name.v4.sin_addr) == 1) {
		name.v4.sin_family = AF_INET;
		name.v4.sin_port = htons(atoi(port));
	} else if (inet_pton(AF_INET6, ip, &name.v6.sin6_addr) == 1) {
		name.v6.sin6_family = AF_INET6;
		name.v6.sin6_port = htons(atoi(port));
	} else {
		fprintf(stderr, "tcp: %s: not an address\n", ip);
		exit(2);
	}
	return name;
}

static socklen_t length(const union name *name)
{
	return name->any.sa_family == AF_INET ? sizeof(name->v4) : sizeof(name->v6);
}

static const char *show(const union name *name)
{
	static char text[4][80];
	static unsigned int turn;
	char ip[INET6_ADDRSTRLEN] = "";
	char *out = text[++turn % 4];

	if (name->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &name->v4.sin_addr, ip, sizeof(ip));
		snprintf(out, sizeof(text[0]), "%s:%u", ip, ntohs(name->v4.sin_port));
	} else {
		inet_ntop(AF_INET6, &name->v6.sin6_addr, ip, sizeof(ip));
		snprintf(out, sizeof(text[0]), "[%s]:%u", ip, ntohs(name->v6.sin6_port));
	}
	return out;
}

static const char *original(int fd, int level)
{
	union name name = {};
	socklen_t size = level == SOL_IP ? sizeof(name.v4) : sizeof(name.v6);

	if (getsockopt(fd, level, SO_ORIGINAL_DST, &name, &size))
		return strerrorname_np(errno);
	return show(&name);
}

static void answer(int fd)
{
	union name local = {}, peer = {};
	socklen_t size = sizeof(local);
	char line[512];
	int used;

	getsockname(fd, &local.any, &size);
	size = sizeof(peer);
	getpeername(fd, &peer.any, &size);
	used = snprintf(line, sizeof(line), "local=%s peer=%s ", show(&local), show(&peer));
	used += snprintf(line + used, sizeof(line) - used, "orig4=%s ", original(fd, SOL_IP));
	snprintf(line + used, sizeof(line) - used, "orig6=%s\n", original(fd, SOL_IPV6));
	if (write(fd, line, strlen(line)) < 0)
		perror("tcp: write");
	close(fd);
}

static int serve(const char *ip, char **ports, int count)
{
	struct pollfd fds[16];

	for (int i = 0; i < count; i++) {
		union name name = parse(ip, ports[i]);
		int fd = socket(name.any.sa_family, SOCK_STREAM, 0);

		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
		if (bind(fd, &name.any, length(&name)) || listen(fd, 4096)) {
			fprintf(stderr, "tcp: %s port %s: %s\n", ip, ports[i], strerror(errno));
			return 1;
		}
		fds[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	puts("ready");
	fflush(stdout);
	while (poll(fds, count, -1) > 0)
		for (int i = 0; i < count; i++)
			if (fds[i].revents) {
				int fd = accept(fds[i].fd, NULL, NULL);

				if (fd >= 0)
					answer(fd);
			}
	return 1;
}

static int failed(void)
{
	printf("%s\n", strerrorname_np(errno));
	fflush(stdout);
	return 1;
}

/* Blocking, but not for ever. */
static int connect_within(int fd, const union name *to)
{
	struct timeval limit = { TIMEOUT_MS / 1000, 0 };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return connect(fd, &to->any, length(to));
}

static int converse(int fd)
{
	union name peer = {}, local = {};
	socklen_t size = sizeof(peer);
	char line[512];
	ssize_t got;

	if (getpeername(fd, &peer.any, &size))
		return failed();
	size = sizeof(local);
	getsockname(fd, &local.any, &size);
	got = read(fd, line, sizeof(line) - 1);
	line[got > 0 ? got : 0] = 0;
	line[strcspn(line, "\n")] = 0;
	printf("dialled=%s from=%s %s\n", show(&peer), show(&local), line);
	fflush(stdout);
	close(fd);
	return 0;
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

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[1] : "";
	bool from = argc == 5 && !strcmp(what, "from"); /* a port comes first */
	union name to = argc > 3 ? parse(argv[2 + from], argv[3 + from]) : (union name){};
	char line[16];
	int err = 0, fd;

	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(what, "serve"))
		return serve(argv[2], argv + 3, argc - 3);
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
	if (from)
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
