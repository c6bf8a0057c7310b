/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A descriptor, through a Unix socket: what hostile and sockets share. */
#ifndef PASSING_H
#define PASSING_H

#include <string.h>
#include <sys/socket.h>

/* fd: -1 for none. 0, or -1 and errno. */
static inline int pass(int through, int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec byte = { &(char){ fd < 0 ? 'n' : 'y' }, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1 };

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	return sendmsg(through, &message, 0) == 1 ? 0 : -1;
}

/* -1: none came. */
static inline int receive(int through)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec byte = { &(char){ 0 }, 1 };
	struct msghdr message = { .msg_iov = &byte,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(through, &message, 0) == 1 && message.msg_controllen)
		memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

#endif
