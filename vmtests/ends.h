/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tcp and sockets share: an end of a connection, named, dialled, shown. */
#ifndef ENDS_H
#define ENDS_H

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

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

static int failed(void)
{
	printf("%s\n", strerrorname_np(errno));
	fflush(stdout);
	return 1;
}

/* Blocking, but not for ever. */
static inline int connect_within(int fd, const union name *to)
{
	struct timeval limit = { TIMEOUT_MS / 1000, 0 };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return connect(fd, &to->any, length(to));
}

static inline int converse(int fd)
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

#endif
