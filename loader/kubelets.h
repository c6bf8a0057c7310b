/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kubelets that run on the node, for the loader and for onramp-zds. */
#ifndef ONRAMP_KUBELETS_H
#define ONRAMP_KUBELETS_H

#include <linux/types.h>

/* The root of the cgroup2 mount that a directory is in, to be freed; NULL, and errno: none. */
char *cgroup_root(const char *cgroup);

/*
 * Calls act with the cgroup of each kubelet in the netns of that inode number: the
 * top-level one, or where pods are in that, its own. cgroup: any in the same mount.
 * The path is act's until it returns.
 */
void kubelets_search(const char *cgroup, __u32 netns, void (*act)(const char *path));

#endif
