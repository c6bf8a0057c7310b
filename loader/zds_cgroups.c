// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: where a pod's processes are. */
#include "cgroups.h"
#include "netns.h"
#include "zds.h"
#include <fcntl.h>
#include <mntent.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define FRESH 50	 /* so long a list of cgroups is good enough */
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

static bool is_id(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)path;
	(void)name;
	return id == *(__u64 *)search->what;
}

const char *cgroups_root(void)
{
	static struct search root = { .is_it = is_id };
	__u64 id = bpf_root_cgroup(); /* 0: the mount's own */
	struct mntent *mount;
	struct stat status;
	FILE *mounts;

	if (*root.found && !stat(root.found, &status) && status.st_ino == id)
		return root.found;
	mounts = setmntent("/proc/self/mounts", "re");
	if (!mounts)
		return NULL;
	*root.found = '\0';
	root.what = &id;
	while (!*root.found && (mount = getmntent(mounts))) {
		if (strcmp(mount->mnt_type, "cgroup2"))
			continue;
		if (id)
			search(&root, mount->mnt_dir);
		else
			snprintf(root.found, sizeof(root.found), "%s", mount->mnt_dir);
	}
	endmntent(mounts);
	return *root.found ? root.found : NULL;
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
	struct search pods = { .is_it = list_add, .descends = is_no_pods };
	const char *root = cgroups_root();

	if (list.made_at && now() < list.made_at + FRESH)
		return;
	for (size_t i = 0; i < list.count; i++) free(list.pod[i].path);
	list.count = 0;
	if (root)
		search(&pods, root);
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

static bool holds(struct search *search, const char *path, const char *name, __u64 id)
{
	(void)name;
	(void)id;
	return cgroup_holds(path, *(pid_t *)search->what);
}

/* Itself, or one below it. */
static bool cgroup_has(const char *cgroup, pid_t pid)
{
	struct search process = { .is_it = holds, .what = &pid };

	return search(&process, cgroup);
}

struct peer_search {
	pid_t pid;
	bool by_list; /* one that is known by the list alone counts */
};

static bool is_known_ztunnels(struct search *search, const char *path, const char *name, __u64 id)
{
	const struct peer_search *peer = search->what;

	(void)name;
	return bpf_is_ztunnels(id, peer->by_list) && cgroup_has(path, peer->pid);
}

const char *cgroup_of_ztunnel(pid_t pid)
{
	/* Where there is no list; else it was taken off. */
	struct peer_search peer = { .pid = pid, .by_list = !is_list(ZTUNNELS_LIST) };
	static struct search ztunnel = { .is_it = is_known_ztunnels };
	const char *root = cgroups_root();
	char uid[UID_STRLEN];

	list.made_at = 0;
	list_make();
	for (size_t i = 0; i < list.count; i++) {
		uid_write(&list.pod[i].uid, uid);
		if (is_listed(ZTUNNELS_LIST, uid) && cgroup_has(list.pod[i].path, pid))
			return list.pod[i].path;
	}
	ztunnel.what = &peer;
	return root && search(&ztunnel, root) ? ztunnel.found : NULL;
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
	return each_process(path, is_netns, search->what);
}

static int netns_open(const union uid *uid, __u64 netns, pid_t pid)
{
	struct netns_search sought = { .id = netns, .fd = -ESRCH };
	struct search process = { .is_it = has_netns, .what = &sought };
	const char *cgroup;

	if (pid && is_netns(&sought, pid))
		return sought.fd;
	cgroup = cgroup_of(uid);
	if (cgroup)
		search(&process, cgroup);
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
