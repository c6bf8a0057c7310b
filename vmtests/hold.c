// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * hold - connections that stay open, and what becomes of them.
 *
 *   hold listen ADDR PORT [ADDR2 PORT2]
 *                              listens, and holds what it accepts
 *   hold dial KIND ADDR PORT [KIND ADDR PORT]...
 *                              opens these and holds them
 *
 * Says "holding" once that is done; then for each line of standard input how many
 * are open, or ended how. With ADDR2 it dials that instead, as tcp does. Ends with
 * its standard input, or at a line "end". Kinds:
 *
 *   N            so many, with nothing special about them
 *   bound        from a port that the kernel chose before connect()
 *   bound-port   from one that the program chose, and listened on before
 *   listened     the socket listened before
 *   accepted     the socket had been accepted before
 *   shared       with three children
 *   half-closed  has said that it will send no more
 *   in-flight    no process has it: it is on the way to one, till asked about
 *   closed       no process has it: the kernel still has data to send
 */
#include "ends.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define MOST 2000

static int held[MOST - 100], count;
static int flights = -1; /* socket that sockets arrive at */

static int hold(int fd)
{
	if (fd < 0 || count == MOST - 100)
		return failed();
	held[count++] = fd;
	return 0;
}

/* The file of a socket through a socket: there, or with fd < 0 back again. */
static int fly(int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = space,
		.msg_controllen = sizeof(space),
	};
	struct cmsghdr *control = CMSG_FIRSTHDR(&message);
	int pair[2];

	if (fd < 0) {
		if (recvmsg(flights, &message, 0) == 1)
			memcpy(&fd, CMSG_DATA(control), sizeof(fd));
		return fd;
	}
	control->cmsg_len = CMSG_LEN(sizeof(fd));
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(control), &fd, sizeof(fd));
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) || sendmsg(pair[0], &message, 0) != 1)
		return -1;
	flights = pair[1];
	return close(fd);
}

static int disconnect(int fd)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	return connect(fd, &none, sizeof(none));
}

/* A socket that a listener on loopback has accepted, and that is free again. */
static int accepted(void)
{
	union name own = parse("0.0.0.0", "0"); /* or it would stay on loopback */
	socklen_t size = sizeof(own.v4);
	int listener = socket(AF_INET, SOCK_STREAM, 0), peer = socket(AF_INET, SOCK_STREAM, 0);
	int fd;

	if (bind(listener, &own.any, size) || listen(listener, 1) ||
	    getsockname(listener, &own.any, &size) || connect(peer, &own.any, size))
		return -1;
	fd = accept(listener, NULL, NULL);
	return fd < 0 || disconnect(fd) || close(peer) || close(listener) ? -1 : fd;
}

static void share(void)
{
	for (int i = 0; i < 3; i++)
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;) pause();
		}
}

/* Closes it with more sent than a peer takes that does not read. */
static int stuff(int fd)
{
	char data[65536] = {};

	while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	return close(fd);
}

static bool dial(const char *kind, const union name *to)
{
	union name any = { .any.sa_family = to->any.sa_family };
	bool choose = !strcmp(kind, "bound-port"), flies = !strcmp(kind, "in-flight");
	int fd = strcmp(kind, "accepted") ? socket(to->any.sa_family, SOCK_STREAM, 0) : accepted();

	if (fd < 0)
		return false;
	any.v4.sin_port = choose ? htons(20000) : 0;
	if ((choose || !strcmp(kind, "bound")) && bind(fd, &any.any, length(&any)))
		return false;
	if ((choose || !strcmp(kind, "listened")) && (listen(fd, 1) || disconnect(fd)))
		return false;
	if (connect_within(fd, to))
		return false;
	if (!strcmp(kind, "shared"))
		share();
	if (!strcmp(kind, "half-closed"))
		shutdown(fd, SHUT_WR);
	if (!strcmp(kind, "closed"))
		return !stuff(fd);
	return flies ? !fly(fd) : !hold(fd);
}

static const char *state_of(int fd)
{
	char byte;

	switch (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT)) {
	case 0:
		return "closed";
	case 1:
		return "open";
	}
	return errno == EAGAIN ? "open" : strerrorname_np(errno);
}

/* How many are in each state, in the order in which they come. */
static void tell(void)
{
	const char *seen[8] = {};
	int times[8] = {}, kinds = 0;

	if (flights >= 0 && hold(fly(-1)))
		exit(1);
	flights = -1;
	for (int i = 0, k; i < count; i++) {
		const char *state = state_of(held[i]);

		for (k = 0; k < kinds && strcmp(seen[k], state); k++)
			;
		if (k == kinds && kinds < 7)
			seen[kinds++] = state;
		times[k]++;
	}
	for (int k = 0; k < kinds; k++) printf("%s%d %s", k ? ", " : "", times[k], seen[k]);
	puts(count ? "" : "none");
}

static int listener(const union name *at)
{
	int fd = socket(at->any.sa_family, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	return bind(fd, &at->any, length(at)) || listen(fd, MOST) ? -1 : fd;
}

int main(int argc, char **argv)
{
	bool listens = argc > 3 && !strcmp(argv[1], "listen");
	struct pollfd fds[2] = { { .fd = 0, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	struct rlimit files = { MOST, MOST };
	union name to;
	char line[16];

	setrlimit(RLIMIT_NOFILE, &files);
	if (!listens && (argc < 5 || argc % 3 != 2 || strcmp(argv[1], "dial"))) {
		fputs("hold: see the top of vmtests/hold.c\n", stderr);
		return 2;
	}
	if (listens) {
		to = parse(argv[2], argv[3]);
		fds[1].fd = listener(&to);
		if (fds[1].fd < 0)
			return failed();
	}
	for (int i = 2; !listens && i < argc; i += 3) {
		to = parse(argv[i + 1], argv[i + 2]);
		for (int n = atoi(argv[i]) ?: 1; n > 0; n--)
			if (!dial(argv[i], &to))
				return failed();
	}
	puts("holding");
	fflush(stdout);
	while (poll(fds, 2, -1) > 0) {
		if (fds[1].revents && hold(accept(fds[1].fd, NULL, NULL)))
			return 1;
		if (!fds[0].revents)
			continue;
		if (read(0, line, sizeof(line)) <= 0 || *line == 'e')
			return 0;
		if (argc == 6 && listens) {
			int fd;

			to = parse(argv[4], argv[5]);
			fd = socket(to.any.sa_family, SOCK_STREAM, 0);
			if (connect_within(fd, &to))
				failed();
			else
				converse(fd);
		} else {
			tell();
		}
		fflush(stdout);
	}
	return 1;
}
