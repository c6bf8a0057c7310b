// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which cgroups are the kubelets'. A process is the kubelet if it has its name and is
 * root's, in the node's netns and in no pod: so that no pod can say that it is.
 */
#include "kubelets.h"
#include "uid.h"
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Reads /proc/PID/NAME; false: the process has ended, or is not for us to read. */
static bool proc_read(const char *pid, const char *name, char text[PATH_MAX])
{
	char path[PATH_MAX];
	ssize_t got;
	int file;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	file = open(path, O_RDONLY | O_CLOEXEC);
	got = read(file, text, PATH_MAX - 1);
	close(file);
	text[got > 0 ? got : 0] = '\0';
	return got > 0;
}

static bool is_roots_kubelet(const char *pid)
{
	static const char *const names[] = { "kubelet", "k3s-server", "k3s-agent", "kubelite" };
	char text[PATH_MAX], name[64], *line;
	unsigned int real, effective;

	if (!proc_read(pid, "status", text) || sscanf(text, "Name: %63s", name) != 1)
		return false;
	line = strstr(text, "\nUid:");
	if (!line || sscanf(line, "\nUid: %u %u", &real, &effective) != 2)
		return false;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(name, names[i]))
			return !real && !effective;
	return false;
}

static bool is_in_netns(const char *pid, __u32 netns)
{
	struct stat own;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
	return !stat(path, &own) && own.st_ino == netns;
}

static int find_pods(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	union uid uid;

	(void)status;
	return kind == FTW_D && uid_of_cgroup(path + place->base, &uid);
}

static bool is_cgroup2(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == CGROUP2_SUPER_MAGIC;
}

char *cgroup_root(const char *cgroup)
{
	char *root = realpath(cgroup, NULL), *end;

	while (root && (end = strrchr(root, '/')) > root) {
		*end = '\0';
		if (is_cgroup2(root))
			continue;
		*end = '/';
		break;
	}
	return root;
}

static const char *sought;   /* a process' pid */
static char found[PATH_MAX]; /* the path of its cgroup; "": none yet */

static int find_process(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	char pid[16];
	FILE *procs;

	(void)status;
	if (kind != FTW_F || strcmp(path + place->base, "cgroup.procs"))
		return 0;
	procs = fopen(path, "re");
	while (procs && !*found && fscanf(procs, "%15s", pid) == 1)
		if (!strcmp(pid, sought))
			snprintf(found, sizeof(found), "%.*s", place->base - 1, path);
	if (procs)
		fclose(procs);
	return *found;
}

/*
 * The process' top-level cgroup, for a unit's own goes when it restarts; or where pods
 * are in that as well, its own. It is searched for, as /proc/PID/cgroup is not by the mount
 * but by the reader's cgroup namespace, whose root is anywhere.
 */
static bool find_cgroup(const char *pid, const char *root)
{
	char names[PATH_MAX], top[PATH_MAX];
	size_t length = strlen(root);
	union uid uid;

	sought = pid;
	*found = '\0';
	if (!nftw(root, find_process, 8, FTW_PHYS))
		return false;
	strcpy(names, found + length);
	for (char *name = strtok(names, "/"); name; name = strtok(NULL, "/"))
		if (uid_of_cgroup(name, &uid))
			return false;
	strcpy(top, found);
	if (top[length])
		*strchrnul(top + length + 1, '/') = '\0';
	if (!nftw(top, find_pods, 8, FTW_PHYS))
		strcpy(found, top);
	return true;
}

void kubelets_search(const char *cgroup, __u32 netns, void (*act)(const char *path))
{
	char *root = cgroup_root(cgroup);
	DIR *proc = opendir("/proc");
	struct dirent *process;

	while (root && proc && (process = readdir(proc)))
		if (is_roots_kubelet(process->d_name) && is_in_netns(process->d_name, netns) &&
		    find_cgroup(process->d_name, root))
			act(found);
	if (proc)
		closedir(proc);
	free(root);
}
