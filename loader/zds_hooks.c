// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: what it attaches to cgroups: ztunnels', the kubelet's, those of pods with DNS. */
#include "inbound.h"
#include "kubelets.h"
#include "zds_bpf.h"
#include <bpf/bpf.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

#define KUBELET_PAUSE 5000 /* where there is none, its search goes through all processes */

/* A program of PIN_DIR/programs, and where it is attached. */
struct hook {
	const char *program;
	enum bpf_attach_type type;
};

static const struct hook ztunnels_own[] = {
	{ "getsockopt", BPF_CGROUP_GETSOCKOPT },
	{ "setsockopt", BPF_CGROUP_SETSOCKOPT },
	{ "bind4", BPF_CGROUP_INET4_BIND },
	{ "bind6", BPF_CGROUP_INET6_BIND },
};

static const struct hook of_listening = { "sock_ops", BPF_CGROUP_SOCK_OPS };

/* recvmsg first: what sendmsg sends elsewhere is to come back from where it was sent. */
static const struct hook of_dns[] = {
	{ "recvmsg4", BPF_CGROUP_UDP4_RECVMSG },
	{ "recvmsg6", BPF_CGROUP_UDP6_RECVMSG },
	{ "sendmsg4", BPF_CGROUP_UDP4_SENDMSG },
	{ "sendmsg6", BPF_CGROUP_UDP6_SENDMSG },
};

/* Where its link is pinned under a name. */
static void hook_path(const struct hook *hook, const char *name, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/links/%s-%s", config.pin_dir, hook->program, name);
}

/* Until it has replaced the one before. */
static void new_path(char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/links/new-zds", config.pin_dir);
}

void hooks_clean(void)
{
	char new[PATH_MAX];

	new_path(new);
	unlink(new);
}

/* Attaches a program to a cgroup, in the place of the link that is pinned under the name. */
static int hook_attach(const struct hook *hook, int cgroup, const char *name)
{
	char path[PATH_MAX], new[PATH_MAX];
	int program, link, err = 0;

	snprintf(path, sizeof(path), "%s/programs/%s", config.pin_dir, hook->program);
	program = bpf_obj_get(path);
	if (program < 0)
		return -errno;
	link = bpf_link_create(program, cgroup, hook->type, NULL);
	if (link < 0)
		err = -errno;
	close(program);
	if (err)
		return err;
	hook_path(hook, name, path);
	hooks_clean();
	new_path(new);
	if (bpf_obj_pin(link, new) || rename(new, path))
		err = -errno;
	close(link);
	return err;
}

static bool is_attached(const struct hook *hook, __u64 cgroup, const char *name)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);
	char path[PATH_MAX];
	int link;

	hook_path(hook, name, path);
	link = bpf_obj_get(path);
	if (link < 0)
		return false;
	bpf_obj_get_info_by_fd(link, &info, &size);
	close(link);
	return info.cgroup.cgroup_id == cgroup;
}

static int hook_detach(const struct hook *hook, const char *name)
{
	char path[PATH_MAX];

	hook_path(hook, name, path);
	return unlink(path) && errno != ENOENT ? -errno : 0;
}

/* All of them, on a cgroup. */
static int hooks_attach(const struct hook *hooks, size_t count, const char *cgroup,
			const char *name)
{
	int directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	struct stat status;

	if (directory < 0)
		return -errno;
	if (fstat(directory, &status))
		err = -errno;
	for (size_t i = 0; i < count && !err; i++)
		if (!is_attached(&hooks[i], status.st_ino, name))
			err = hook_attach(&hooks[i], directory, name);
	close(directory);
	return err;
}

int bpf_dns(const char *uid, const char *cgroup, bool on)
{
	/* Where it is captured for all, these programs find nothing left to do, or to undo. */
	if (on && cgroup)
		return hooks_attach(of_dns, sizeof(of_dns) / sizeof(*of_dns), cgroup, uid);
	for (size_t i = sizeof(of_dns) / sizeof(*of_dns); i-- > 0;) hook_detach(&of_dns[i], uid);
	return 0;
}

/* The lowest place that no ztunnel has; ZTUNNELS: there is none. */
static __u32 place_free(void)
{
	bool taken[ZTUNNELS] = {};
	__u64 id, *last = NULL;
	struct ztunnel known;
	__u32 place = 0;

	for (; !bpf_map_get_next_key(maps.ztunnels, last, &id); last = &id)
		if (!bpf_map_lookup_elem(maps.ztunnels, &id, &known) && known.place < ZTUNNELS)
			taken[known.place] = true;
	while (place < ZTUNNELS && taken[place]) place++;
	return place;
}

/* Also where whoever was killed before has not come to it. */
static int ztunnels_say(void)
{
	struct settings settings;
	__u32 key = 0, sum = ztunnels_sum(maps.ztunnels);

	if (!settings_read(&settings))
		return -errno;
	if (settings.ztunnels == sum)
		return 0;
	settings.ztunnels = sum;
	return bpf_map_update_elem(maps.settings, &key, &settings, BPF_EXIST) ? -errno : 0;
}

static int cgroup_id(const char *cgroup, __u64 *id)
{
	struct stat status;

	if (stat(cgroup, &status))
		return -errno;
	*id = status.st_ino;
	return 0;
}

int ztunnel_find(const char *cgroup, struct ztunnel *ztunnel)
{
	__u64 id;
	int err = cgroup_id(cgroup, &id);

	if (!err && bpf_map_lookup_elem(maps.ztunnels, &id, ztunnel))
		err = -errno;
	return err;
}

static int cgroup_joins(const char *cgroup)
{
	struct ztunnel ztunnel = {};
	__u64 id, never = 0;
	bool is_known;
	char name[16];
	int err = cgroup_id(cgroup, &id);

	if (err)
		return err;
	is_known = !bpf_map_lookup_elem(maps.ztunnels, &id, &ztunnel);
	if (!is_known)
		ztunnel.place = place_free();
	if (ztunnel.place >= ZTUNNELS)
		return -EUSERS;
	/* First what makes its binds harmless, then that it passes. */
	snprintf(name, sizeof(name), "%u", ztunnel.place);
	err = hooks_attach(ztunnels_own, sizeof(ztunnels_own) / sizeof(*ztunnels_own), cgroup,
			   name);
	if (err)
		return err;
	if (!is_known) {
		ztunnel.by_list = 1;
		bpf_map_update_elem(maps.starts, &ztunnel.place, &never, BPF_ANY);
		if (bpf_map_update_elem(maps.ztunnels, &id, &ztunnel, BPF_NOEXIST))
			return -errno;
	}
	return ztunnels_say();
}

/* Without a loader's lock: a load may take a second, and what it renews does the same. */
int bpf_listening_noted(const char *cgroup, bool noted)
{
	struct ztunnel ztunnel;
	char place[16];
	int err = ztunnel_find(cgroup, &ztunnel);

	if (err)
		return err;
	snprintf(place, sizeof(place), "%u", ztunnel.place);
	if (noted)
		return hooks_attach(&of_listening, 1, cgroup, place);
	return hook_detach(&of_listening, place);
}

static int kubelets_found; /* by a search */

/* What is dialled from there is a probe from now on. */
static int kubelet_joins(const char *cgroup)
{
	char name[32];
	__u32 one = 1;
	__u64 id;
	int err = cgroup_id(cgroup, &id);

	if (err)
		return err;
	snprintf(name, sizeof(name), "kubelet-%d", kubelets_found++);
	err = hooks_attach(&of_listening, 1, cgroup, name);
	if (!err && bpf_map_update_elem(maps.kubelets, &id, &one, BPF_ANY))
		err = -errno;
	return err;
}

/* Not while a loader is at work, which does the same: as it does, by the directory. */
static int alone(int (*act)(const char *cgroup), const char *cgroup)
{
	char *copy = strdup(config.pin_dir);
	int directory, err;

	if (!copy)
		return -ENOMEM;
	directory = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (directory < 0)
		return -errno;
	err = flock(directory, LOCK_EX | LOCK_NB) ? -errno : act(cgroup);
	close(directory);
	return err;
}

int bpf_ztunnel_joins(const char *cgroup)
{
	return alone(cgroup_joins, cgroup);
}

static void kubelet_found(const char *cgroup)
{
	int err = alone(kubelet_joins, cgroup);

	if (err)
		log_event("kubelet-not-known", "cgroup=%s error=\"%s\"", cgroup, strerror(-err));
	else
		log_event("kubelet", "cgroup=%s", cgroup);
}

void bpf_kubelet_tick(void)
{
	static __u64 next;
	struct settings settings;
	struct stat status;
	const char *root;
	__u64 id;

	if (now() < next || !bpf_map_get_next_key(maps.kubelets, NULL, &id))
		return;
	next = now() + KUBELET_PAUSE;
	root = cgroups_root();
	if (!root || !settings_read(&settings) || settings.flags & KUBELET_GIVEN)
		return;
	if (!settings.node_netns && !stat("/proc/1/ns/net", &status))
		settings.node_netns = status.st_ino;
	kubelets_found = 0;
	kubelets_search(root, settings.node_netns, kubelet_found);
}

bool bpf_is_ztunnels(__u64 cgroup, bool by_list)
{
	struct ztunnel ztunnel;

	return !bpf_map_lookup_elem(maps.ztunnels, &cgroup, &ztunnel) &&
	       (by_list || !ztunnel.by_list);
}

void bpf_ztunnel_began(const char *cgroup, __u64 start)
{
	struct ztunnel ztunnel;
	__u64 known;

	if (ztunnel_find(cgroup, &ztunnel) ||
	    bpf_map_lookup_elem(maps.starts, &ztunnel.place, &known))
		return;
	start += ztunnel.place; /* no two are the same: who looks for the next one goes on below */
	if (start > known)	/* else sockops saw it listen, and knows more exactly */
		bpf_map_update_elem(maps.starts, &ztunnel.place, &start, BPF_EXIST);
}
