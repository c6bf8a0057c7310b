/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Walks of cgroup2, for the loader and for onramp-zds. By the cgroups and not by what
 * /proc/PID/cgroup says, which is a path in the reader's cgroup namespace; the pids in
 * cgroup.procs are the reader's own, whoever's they are.
 */
#ifndef ONRAMP_CGROUPS_H
#define ONRAMP_CGROUPS_H

#include <limits.h>
#include <linux/types.h>
#include <stdbool.h>
#include <sys/types.h>

/* What is sought among cgroups. */
struct search {
	/* Whether that is one; id: as BPF knows it. */
	bool (*is_it)(struct search *search, const char *path, const char *name, __u64 id);
	bool (*descends)(const char *path, const char *name); /* NULL: always */
	void *what;					      /* for is_it */
	char found[PATH_MAX]; /* its path; as it was, where there is none */
};

/* Asks of the cgroup at path and all below it, until one is found. One that goes is passed. */
bool search(struct search *search, const char *path);

/* Calls act for each process in the cgroup, until it returns true. */
bool each_process(const char *cgroup, bool (*act)(void *argument, pid_t pid), void *argument);

/* Whether the process of that pid is in the cgroup itself. */
bool cgroup_holds(const char *cgroup, pid_t pid);

#endif
