// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kubelet's cgroups, so that its probes arrive at what they are for. A process is
 * the kubelet if it has its name and is root's, in the node's netns and in no pod: so
 * that no pod can say that it is.
 */
#include "loader.h"
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <linux/magic.h>

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

static bool is_in_netns(const char *pid, const char *netns)
{
	struct stat own, wanted;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
	return !stat(path, &own) && !stat(netns, &wanted) && own.st_ino == wanted.st_ino;
}

static int find_pods(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	union uid uid;

	(void)status;
	return kind == FTW_D && uid_of_cgroup(path + place->base, &uid);
}

/* The root of the cgroup2 mount that the directory is in. */
static const char *root_of(const char *cgroup)
{
	const char *root = realpath(cgroup, NULL), *above;

	if (!root)
		die("%s: %m", cgroup);
	above = dirname(strdup(root));
	while (is_in(above, CGROUP2_SUPER_MAGIC)) {
		root = above;
		above = dirname(strdup(root));
	}
	return root;
}

static bool has(const struct kubelets *kubelets, __u64 id)
{
	for (int i = 0; i < kubelets->count; i++)
		if (kubelets->id[i] == id)
			return true;
	return false;
}

static void add(struct kubelets *kubelets, __u64 id, const char *path)
{
	if (has(kubelets, id) || kubelets->count == WORDS)
		return;
	kubelets->id[kubelets->count] = id;
	kubelets->path[kubelets->count] = path;
	kubelets->count++;
}

static const char *sought; /* a process' pid */
static char *found;	   /* the path of its cgroup */

static int find_process(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	char pid[16];
	FILE *procs;

	(void)status;
	if (kind != FTW_F || strcmp(path + place->base, "cgroup.procs"))
		return 0;
	procs = fopen(path, "re");
	while (procs && !found && fscanf(procs, "%15s", pid) == 1)
		if (!strcmp(pid, sought))
			found = dirname(strdup(path));
	if (procs)
		fclose(procs);
	return !!found;
}

/*
 * The process' top-level cgroup, for a unit's own goes when it restarts; or where pods
 * are in that as well, its own. It is searched for, as /proc/PID/cgroup is not by the mount
 * but by the reader's cgroup namespace, whose root is anywhere.
 */
static void add_process(struct kubelets *kubelets, const char *pid, const char *root)
{
	size_t length = strlen(root);
	union uid uid;
	char *top;

	sought = pid;
	found = NULL;
	if (!nftw(root, find_process, 8, FTW_PHYS))
		return;
	for (char *name = strtok(strdup(found + length), "/"); name; name = strtok(NULL, "/"))
		if (uid_of_cgroup(name, &uid))
			return;
	top = strdup(found);
	if (top[length])
		*strchrnul(top + length + 1, '/') = '\0';
	if (nftw(top, find_pods, 8, FTW_PHYS))
		top = found;
	add(kubelets, cgroup_id(top), top);
}

struct kubelets kubelets_seen(const struct options *options)
{
	const char *netns = options->given['n'] ? options->given['n'] : "/proc/1/ns/net";
	const char *root = root_of(options->given['c']);
	struct kubelets kubelets = {};
	struct dirent *process;
	DIR *proc;

	for (int i = 0; i < options->kubelet_cgroups.count; i++) {
		const char *path = options->kubelet_cgroups.word[i];

		if (!strcmp(path, "/"))
			path = root;
		add(&kubelets, cgroup_id(path), path);
	}
	proc = opendir("/proc");
	if (!proc || options->given['k'])
		return kubelets;
	while ((process = readdir(proc)))
		if (is_roots_kubelet(process->d_name) && is_in_netns(process->d_name, netns))
			add_process(&kubelets, process->d_name, root);
	return kubelets;
}

void kubelets_write(const struct kubelets *kubelets)
{
	int map = pinned_map("kubelets");
	struct kubelets there = {};
	__u64 id, *last = NULL;
	__u32 one = 1;

	for (; !bpf_map_get_next_key(map, last, &id); last = &id) add(&there, id, NULL);
	for (int i = 0; i < there.count; i++)
		if (!has(kubelets, there.id[i]))
			entry_write("-k", map, &there.id[i], &one, NULL);
	for (int i = 0; i < kubelets->count; i++)
		if (!has(&there, kubelets->id[i]))
			entry_write("-k", map, &kubelets->id[i], NULL, &one);
}
