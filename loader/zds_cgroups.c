// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: where a pod's processes are. By walking the cgroups and not by what
 * /proc/PID/cgroup says, which is a path in the reader's cgroup namespace; the pids in
 * cgroup.procs are the reader's own, whoever's they are.
 */
#include "netns.h"
#include "zds.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define FRESH 50 /* so long a list of cgroups is good enough */
#define DEEPEST 32
#define NOT_FOR_PODS 100 /* descriptors: for ztunnels, who asks for metrics, and files */

struct known {
	union uid uid;
	char *path;
};

static struct {
	struct known *pod;
	size_t count;
	size_t room;
	__u64 made_at;
} list;

/* What is sought among cgroups: act says true when it is found. */
struct search {
	bool (*act)(struct search *search, const char *path, const char *name, __u64 id);
	bool (*descends)(const char *path, const char *name); /* NULL: always */
	__u64 id;
	pid_t pid;
	bool by_list;
	struct netns_search *netns;
	char found[PATH_MAX];
};

static bool search_below(struct search *search, const char *path, int depth)
{
	char below[PATH_MAX];
	DIR *entries = opendir(path);
	struct dirent *entry;
	bool found = false;

	if (!entries)
		return false;
	while (!found && depth && (entry = readdir(entries))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if (snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) >=
		    (int)sizeof(below))
			continue;
		found = search->act(search, below, entry->d_name, entry->d_ino);
		if (!found && (!search->descends || search->descends(below, entry->d_name)))
			found = search_below(search, below, depth - 1);
	}
	closedir(entries);
	return found;
}

static bool is_id(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)name;
	if (id != search->id)
		return false;
	snprintf(search->found, sizeof(search->found), "%s", path);
	return true;
}

const char *cgroups_root(void)
{
	static struct search search = { .act = is_id };
	struct mntent *mount;
	struct stat status;
	FILE *mounts;

	search.id = bpf_root_cgroup();
	if (*search.found && !stat(search.found, &status) && status.st_ino == search.id)
		return search.found;
	mounts = setmntent("/proc/self/mounts", "re");
	if (!mounts)
		return NULL;
	*search.found = '\0';
	while (!*search.found && (mount = getmntent(mounts))) {
		if (strcmp(mount->mnt_type, "cgroup2") || stat(mount->mnt_dir, &status))
			continue;
		if (!search.id || status.st_ino == search.id)
			snprintf(search.found, sizeof(search.found), "%s", mount->mnt_dir);
		else
			search_below(&search, mount->mnt_dir, DEEPEST);
	}
	endmntent(mounts);
	return *search.found ? search.found : NULL;
}

/* As bpf/uids.h has it: what is delegated to a user of the node's may have any name. */
static bool is_pods(const char *path, const char *name, union uid *uid)
{
	struct stat status;

	return uid_of_cgroup(name, uid) && !stat(path, &status) && !status.st_uid;
}

static bool is_no_pods(const char *path, const char *name)
{
	union uid uid;

	return !is_pods(path, name, &uid);
}

static bool list_add(struct search *search, const char *path, const char *name, __u64 id)
{
	struct known *more;
	union uid uid;

	(void)search;
	(void)id;
	if (!is_pods(path, name, &uid))
		return false;
	if (list.count == list.room) {
		more = realloc(list.pod, (list.room * 2 + 64) * sizeof(*more));
		if (!more)
			return true;
		list.pod = more;
		list.room = list.room * 2 + 64;
	}
	list.pod[list.count] = (struct known){ .uid = uid, .path = strdup(path) };
	list.count += !!list.pod[list.count].path;
	return false;
}

/* Of the topmost cgroups that are pods'. */
static void list_make(void)
{
	struct search search = { .act = list_add, .descends = is_no_pods };
	const char *root = cgroups_root();

	if (list.made_at && now() < list.made_at + FRESH)
		return;
	for (size_t i = 0; i < list.count; i++) free(list.pod[i].path);
	list.count = 0;
	if (root)
		search_below(&search, root, DEEPEST);
	list.made_at = now();
}

static const char *list_find(const union uid *uid)
{
	for (size_t i = 0; i < list.count; i++)
		if (!memcmp(&list.pod[i].uid, uid, sizeof(*uid)))
			return access(list.pod[i].path, F_OK) ? NULL : list.pod[i].path;
	return NULL;
}

const char *cgroup_of(const union uid *uid)
{
	const char *path = list_find(uid);

	if (path)
		return path;
	list_make();
	return list_find(uid);
}

/* Calls act for each process in the cgroup, until it returns true. */
static bool each_process(const char *cgroup, bool (*act)(void *argument, pid_t pid), void *argument)
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

static bool has_pid(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)name;
	(void)id;
	return each_process(path, is_pid, &search->pid);
}

static bool cgroup_has(const char *cgroup, pid_t pid)
{
	struct search search = { .act = has_pid, .pid = pid };

	return each_process(cgroup, is_pid, &pid) || search_below(&search, cgroup, DEEPEST);
}

static bool is_known_ztunnels(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)name;
	if (!bpf_is_ztunnels(id, search->by_list) || !cgroup_has(path, search->pid))
		return false;
	snprintf(search->found, sizeof(search->found), "%s", path);
	return true;
}

const char *cgroup_of_ztunnel(pid_t pid)
{
	static struct search search = { .act = is_known_ztunnels };
	const char *root = cgroups_root();
	char uid[UID_STRLEN];

	list.made_at = 0;
	list_make();
	for (size_t i = 0; i < list.count; i++) {
		uid_write(&list.pod[i].uid, uid);
		if (is_listed(ZTUNNELS_LIST, uid) && cgroup_has(list.pod[i].path, pid))
			return list.pod[i].path;
	}
	search.pid = pid;
	search.by_list = !is_list(ZTUNNELS_LIST); /* else it was taken off */
	return root && search_below(&search, root, DEEPEST) ? search.found : NULL;
}

/* A netns by its id, and those that it was found not to be. */
struct netns_search {
	__u64 id;
	ino_t others[16];
	int other_count;
	int fd;
};

static int has_id(void *argument)
{
	struct netns_search *sought = argument;
	__u64 id, net;
	int err = netns_ids(config.pin_dir, &id, &net);

	if (err)
		return err;
	return id == sought->id ? 0 : -ESRCH;
}

static bool is_netns(void *argument, pid_t pid)
{
	struct netns_search *sought = argument;
	struct stat status;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (fstat(fd, &status))
		status.st_ino = 0;
	for (int i = 0; i < sought->other_count; i++)
		if (sought->others[i] == status.st_ino) {
			close(fd);
			return false;
		}
	if (!netns_visit(fd, has_id, sought)) {
		sought->fd = fd;
		return true;
	}
	close(fd);
	if (sought->other_count < 16)
		sought->others[sought->other_count++] = status.st_ino;
	return false;
}

static bool has_netns(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)name;
	(void)id;
	return each_process(path, is_netns, search->netns);
}

static int netns_open(const union uid *uid, __u64 netns, pid_t pid)
{
	struct netns_search sought = { .id = netns, .fd = -ESRCH };
	struct search search = { .act = has_netns, .netns = &sought };
	const char *cgroup;

	if (pid && is_netns(&sought, pid))
		return sought.fd;
	cgroup = cgroup_of(uid);
	if (cgroup && !each_process(cgroup, is_netns, &sought))
		search_below(&search, cgroup, DEEPEST);
	return sought.fd;
}

int cgroup_netns(const union uid *uid, __u64 netns, pid_t pid)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
	int fd = netns_open(uid, netns, pid);

	getrlimit(RLIMIT_NOFILE, &limit);
	if (fd < 0 || (rlim_t)fd + NOT_FOR_PODS < limit.rlim_cur)
		return fd;
	close(fd);
	return -EMFILE;
}
