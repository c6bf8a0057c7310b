// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "cgroups.h"
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DEEPEST 32

static bool visit(struct search *search, const char *path, const char *name, __u64 id, int depth)
{
	char below[PATH_MAX];
	struct dirent *entry;
	bool found = false;
	DIR *entries;

	if (search->is_it(search, path, name, id)) {
		snprintf(search->found, sizeof(search->found), "%s", path);
		return true;
	}
	if (!depth || (search->descends && !search->descends(path, name)))
		return false;
	entries = opendir(path);
	while (!found && entries && (entry = readdir(entries))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if (snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) <
		    (int)sizeof(below))
			found = visit(search, below, entry->d_name, entry->d_ino, depth - 1);
	}
	if (entries)
		closedir(entries);
	return found;
}

bool search(struct search *search, const char *path)
{
	struct stat status;

	return !stat(path, &status) && visit(search, path, basename(path), status.st_ino, DEEPEST);
}

bool each_process(const char *cgroup, bool (*act)(void *argument, pid_t pid), void *argument)
{
	char path[PATH_MAX];
	bool found = false;
	FILE *file;
	int pid;

	if (snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup) >= (int)sizeof(path))
		return false;
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && fscanf(file, "%d", &pid) == 1)
		found = pid && act(argument, pid); /* 0: not in our pid namespace */
	fclose(file);
	return found;
}

static bool is_pid(void *argument, pid_t pid)
{
	return pid == *(pid_t *)argument;
}

bool cgroup_holds(const char *cgroup, pid_t pid)
{
	return each_process(cgroup, is_pid, &pid);
}
