/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Work in other netns. All return 0, or a negative errno. */
#ifndef ONRAMP_NETNS_VISIT_H
#define ONRAMP_NETNS_VISIT_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

/* Calls act(argument) in the netns of that file descriptor, and gives what it returns. */
int netns_visit(int netns_fd, int (*act)(void *), void *argument);

/* Reads up to size - 1 bytes of the iterator PIN_DIR/links/LINK, as text. */
int iterator_read(const char *pin_dir, const char *link, char *text, size_t size);

/* Of the caller's netns: its id, as netns_info.netns, and the address of its struct net. */
int netns_ids(const char *pin_dir, __u64 *id, __u64 *net);

#endif
