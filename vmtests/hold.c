// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * hold - connections that stay open.
 *
 *   hold listen ADDR PORT [ADDR2 PORT2]
 *                              listens, and holds what it accepts
 *   hold dial N ADDR PORT [N ADDR PORT]...
 *                              opens N of these, and so on, and holds them
 *
 * Says "holding" once that is done. With ADDR2 it dials that for each line of
 * standard input, as tcp does. Ends with its standard input, or at a line "end".
 */
#include "ends.h"
#include <poll.h>
#include <stdbool.h>
#include <sys/resource.h>

#define MOST 2000

static int listener(const union name *at)
{
	int fd = socket(at->any.sa_family, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	return bind(fd, &at->any, length(at)) || listen(fd, MOST) ? -1 : fd;
}

static int dial(const union name *to)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM, 0);

	return fd < 0 || connect_within(fd, to) ? -1 : fd;
}

int main(int argc, char **argv)
{
	bool listens = argc > 3 && !strcmp(argv[1], "listen");
	struct pollfd fds[2] = { { .fd = 0, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	struct rlimit files = { MOST, MOST };
	union name to;
	char line[16];
	int fd;

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
		for (int n = atoi(argv[i]); n > 0; n--)
			if (dial(&to) < 0)
				return failed();
	}
	puts("holding");
	fflush(stdout);
	while (poll(fds, 2, -1) > 0) {
		if (fds[1].revents && accept(fds[1].fd, NULL, NULL) < 0)
			return failed();
		if (!fds[0].revents)
			continue;
		if (read(0, line, sizeof(line)) <= 0 || *line == 'e')
			return 0;
		if (!listens || argc < 6)
			continue;
		to = parse(argv[4], argv[5]);
		fd = dial(&to);
		if (fd < 0)
			failed();
		else
			converse(fd);
	}
	return 1;
}
