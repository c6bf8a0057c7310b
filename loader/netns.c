// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "netns.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int netns_visit(int netns_fd, int (*act)(void *), void *argument)
{
	int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), result;

	if (own < 0)
		return -errno;
	if (setns(netns_fd, CLONE_NEWNET)) {
		result = -errno;
		close(own);
		return result;
	}
	result = act(argument);
	if (setns(own, CLONE_NEWNET))
		abort(); /* all that comes after would be in the pod's netns */
	close(own);
	return result;
}

int iterator_read(const char *pin_dir, const char *link, char *text, size_t size)
{
	char path[PATH_MAX];
	ssize_t got;
	int file;

	snprintf(path, sizeof(path), "%s/links/%s", pin_dir, link);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return -errno;
	got = read(file, text, size - 1);
	close(file);
	if (got < 0)
		return -errno;
	text[got] = '\0';
	return 0;
}

int netns_ids(const char *pin_dir, __u64 *id, __u64 *net)
{
	char text[64];
	int err = iterator_read(pin_dir, "iter_netns", text, sizeof(text));

	if (!err && sscanf(text, "%llu %llu", id, net) != 2)
		err = -EPROTO;
	return err;
}
