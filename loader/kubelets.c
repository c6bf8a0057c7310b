// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which cgroups are the kubelets'. A process is the kubelet if it has its name and is
 * root's, in the node's netns and in no pod: so that no pod can say that it is.
 */
#include "kubelets.h"
#include "cgroups.h"
#include "uid.h"
#include <dirent.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* False also where the process has ended, or is not for us to read. */
static bool is_roots_kubelet(const char *pid)
{
	static const char *const names[] = { "kubelet", "k3s-server", "k3s-agent", "kubelite" };
	char path[PATH_MAX], line[256], name[64] = "";
	unsigned int real = -1, effective = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%s/status", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		sscanf(line, "Name: %63s", name);
		sscanf(line, "Uid: %u %u", &real, &effective);
	}
	if (file)
		fclose(file);
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

static bool is_pods(struct search *search, const char *path, const char *name, __u64 id)
{
	union uid uid;

	(void)search;
	(void)path;
	(void)id;
	return uid_of_cgroup(name, &uid);
}

static bool is_no_pods(const char *path, const char *name)
{
	return !is_pods(NULL, path, name, 0);
}

static bool holds(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)id;
	return is_no_pods(path, name) && cgroup_holds(path, *(pid_t *)search->what);
}

/*
 * The process' top-level cgroup, for a unit's own goes when it restarts; or where pods
 * are in that as well, its own. False: it is in a pod, or has ended.
 */
static bool find_cgroup(pid_t pid, const char *root, char found[PATH_MAX])
{
	struct search process = { .is_it = holds, .descends = is_no_pods, .what = &pid };
	struct search pods = { .is_it = is_pods };
	size_t length = strlen(root);

	if (!search(&process, root))
		return false;
	strcpy(found, process.found);
	if (found[length])
		*strchrnul(found + length + 1, '/') = '\0';
	if (search(&pods, found))
		strcpy(found, process.found);
	return true;
}

void kubelets_search(const char *cgroup, __u32 netns, void (*act)(const char *path))
{
	char *root = cgroup_root(cgroup), found[PATH_MAX];
	DIR *proc = opendir("/proc");
	struct dirent *process;

	while (root && proc && (process = readdir(proc)))
		if (is_roots_kubelet(process->d_name) && is_in_netns(process->d_name, netns) &&
		    find_cgroup(atoi(process->d_name), root, found))
			act(found);
	if (proc)
		closedir(proc);
	free(root);
}
