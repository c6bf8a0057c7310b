// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which programs are attached where and when, and how one takes another's place. */
#include "inbound.h"
#include "loader.h"
#include "uid.h"
#include <dirent.h>
#include <fcntl.h>

/*
 * In the order of attaching: connect comes late, for what it redirects needs all the
 * others; after it what counts the connections that it had no verdict for.
 */
static const struct hook {
	const char *name; /* of the program, and of its pin */
	enum {
		KERNEL,
		TASKS, /* and read at once: what follows may rest on what runs already */
		FILES,
		FILE_OF_PODS,
		CGROUP,
		ZTUNNELS_OWN,
		ZTUNNELS_AT_TIMES,
		PODS_OWN,
		KUBELETS,
		NETNS, /* of each pod, by onramp-zds: a copy of its own; here only tried */
		BEHIND /* these copies */
	} where;
	enum {
		ALWAYS,
		IN_NODE_MODE,
		IN_IN_POD_MODE,
		EVERYWHERE,
		WITH_DNS,
		WITH_AUDIT,
		SINCE_5_13, /* where there is bpf_for_each_map_elem */
		BEFORE_5_13
	} when;
} hooks[] = {
	{ "sched_process_exec", KERNEL, ALWAYS },
	{ "cgroup_rmdir", KERNEL, ALWAYS },
	{ "iter_task", TASKS, ALWAYS },
	{ "iter_netns", KERNEL, ALWAYS },
	{ "iter_listeners", KERNEL, IN_IN_POD_MODE },
	{ "metrics", FILES, ALWAYS },
	{ "pods", FILES, SINCE_5_13 },
	{ "pods_by_element", FILE_OF_PODS, BEFORE_5_13 },
	{ "getsockopt", ZTUNNELS_OWN, ALWAYS },
	{ "getsockopt", CGROUP, EVERYWHERE },
	{ "setsockopt", ZTUNNELS_OWN, IN_IN_POD_MODE },
	{ "bind4", ZTUNNELS_OWN, ALWAYS },
	{ "bind4", CGROUP, EVERYWHERE },
	{ "bind6", ZTUNNELS_OWN, ALWAYS },
	{ "bind6", CGROUP, EVERYWHERE },
	{ "sock_ops", CGROUP, IN_NODE_MODE },
	{ "sock_ops", ZTUNNELS_AT_TIMES, IN_IN_POD_MODE },
	{ "sock_ops", KUBELETS, IN_IN_POD_MODE },
	{ "getsockname4", CGROUP, IN_IN_POD_MODE },
	{ "getsockname6", CGROUP, IN_IN_POD_MODE },
	{ "getpeername4", CGROUP, ALWAYS },
	{ "getpeername6", CGROUP, ALWAYS },
	{ "recvmsg4", PODS_OWN, IN_IN_POD_MODE },
	{ "recvmsg4", CGROUP, WITH_DNS },
	{ "recvmsg6", PODS_OWN, IN_IN_POD_MODE },
	{ "recvmsg6", CGROUP, WITH_DNS },
	{ "sendmsg4", PODS_OWN, IN_IN_POD_MODE },
	{ "sendmsg4", CGROUP, WITH_DNS },
	{ "sendmsg6", PODS_OWN, IN_IN_POD_MODE },
	{ "sendmsg6", CGROUP, WITH_DNS },
	{ "connect4", CGROUP, ALWAYS },
	{ "connect6", CGROUP, ALWAYS },
	{ "inbound_lookup", BEHIND, IN_IN_POD_MODE },
	{ "inbound_netns", NETNS, IN_IN_POD_MODE },
	{ "inet_sock_set_state", KERNEL, WITH_AUDIT },
};

#define HOOKS (sizeof(hooks) / sizeof(*hooks))

static bool has_for_each(void)
{
	static int has = -1; /* not asked yet */

	if (has < 0)
		has = libbpf_probe_bpf_helper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
					      BPF_FUNC_for_each_map_elem, NULL) > 0;
	return has;
}

static bool is_needed(const struct hook *hook, const struct options *options, bool everywhere)
{
	switch (hook->when) {
	case IN_NODE_MODE:
		return options->ztunnels.count;
	case IN_IN_POD_MODE:
		return !options->ztunnels.count;
	case EVERYWHERE: /* ztunnel's programs, where its cgroup is not known */
		return everywhere;
	case WITH_DNS:
		return options->given['d'];
	case WITH_AUDIT:
		return options->given['a'];
	case SINCE_5_13:
		return has_for_each();
	case BEFORE_5_13:
		return !has_for_each();
	default:
		return true;
	}
}

static bool is_ztunnels(const struct hook *hook)
{
	return hook->where == ZTUNNELS_OWN || hook->where == ZTUNNELS_AT_TIMES;
}

/* Pinned: onramp-zds attaches it, too, or whoever loads anew has it in hand. */
static bool is_for_zds(const struct hook *hook)
{
	return is_ztunnels(hook) || hook->where == PODS_OWN || hook->where == BEHIND;
}

static struct bpf_program *program_of(struct bpf_object *object, const struct hook *hook)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, hook->name);

	if (!program)
		die("%s: no such program in the BPF object", hook->name);
	return program;
}

void programs_choose(struct bpf_object *object, const struct options *options)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object) bpf_program__set_autoload(program, false);
	for (size_t i = 0; i < HOOKS; i++)
		if (is_needed(&hooks[i], options, false))
			bpf_program__set_autoload(program_of(object, &hooks[i]), true);
}

/* Of the pinned link; all zero: there is none, or (cgroup_id) its cgroup has gone. */
static struct bpf_link_info link_info(int link)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);

	bpf_obj_get_info_by_fd(link, &info, &size);
	return info;
}

/* The link runs this program from now on, without a moment in between. */
static int renew(int link, const struct bpf_program *program)
{
	int old = bpf_prog_get_fd_by_id(link_info(link).prog_id);

	if (old < 0 && errno != EPERM) /* that takes CAP_SYS_ADMIN: it is not put back */
		return -1;
	undo_program(link, old);
	return bpf_link_update(link, bpf_program__fd(program), NULL);
}

/* The link is pinned in the place of the one there, so that there is always one. */
static int replace(struct bpf_link *link, const char *path)
{
	const char *new = pin("links/new");

	if (!link)
		return -1;
	unlink(new); /* of a loader that was killed */
	undo_pin(new);
	undo_pin(path);
	if (bpf_link__pin(link, new))
		return -1;
	return rename(new, path);
}

static void attach(const struct bpf_program *program, const char *path, bool to_pods)
{
	union bpf_iter_link_info pods = { .map.map_fd = pinned_map("pod_ips") };
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &pods, .link_info_len = sizeof(pods));
	struct bpf_link *link;

	if (to_pods)
		link = bpf_program__attach_iter(program, &opts);
	else
		link = bpf_program__attach(program);
	if (replace(link, path))
		die("%s: cannot attach: %m: see onramp-doctor", bpf_program__name(program));
}

/* One that keeps ours out: the first program there may be an exclusive one. */
static struct bpf_prog_info in_the_way(const struct bpf_program *program, int cgroup)
{
	struct bpf_prog_info other = {};
	__u32 id = 0, count = 1, size = sizeof(other);

	if (!bpf_prog_query(cgroup, bpf_program__expected_attach_type(program),
			    BPF_F_QUERY_EFFECTIVE, NULL, &id, &count))
		bpf_obj_get_info_by_fd(bpf_prog_get_fd_by_id(id), &other, &size);
	return other;
}

static void attach_to_cgroup(const struct bpf_program *program, const char *path, const char *where)
{
	int old = pinned(path), cgroup = open(where, O_RDONLY | O_CLOEXEC), failed, error;
	struct bpf_prog_info other = {};

	if (link_info(old).cgroup.cgroup_id == cgroup_id(where))
		failed = renew(old, program);
	else
		failed = replace(bpf_program__attach_cgroup(program, cgroup), path);
	error = errno;
	if (failed && error == EPERM)
		other = in_the_way(program, cgroup);
	if (failed)
		die("%s: cannot attach to %s: %s: %s%s", bpf_program__name(program), where,
		    strerror(error), *other.name ? "in the way: " : "see onramp-doctor",
		    other.name);
	close(cgroup);
}

/* For onramp-zds, which attaches them where ztunnel is, and where a pod's DNS is captured. */
static void program_pin(struct bpf_program *program)
{
	const char *new = pin("programs/new"), *path;

	path = pin("programs/%s", bpf_program__name(program));
	unlink(new); /* of a loader that was killed */
	undo_pin(new);
	undo_pin(path);
	if (bpf_program__pin(program, new) || rename(new, path))
		die("%s: %m", path);
}

/* NULL: not by us, but what onramp-zds has attached is renewed. */
static void attach_to_ztunnels(const struct bpf_program *program, const struct ztunnels *ztunnels)
{
	for (int place = 0; place < ZTUNNELS; place++) {
		/* No dot: bpffs refuses it. */
		const char *path = pin("links/%s-%d", bpf_program__name(program), place);
		int old = pinned(path);

		if (ztunnels && ztunnels->cgroup[place])
			attach_to_cgroup(program, path, ztunnels->cgroup[place]);
		else if (link_info(old).cgroup.cgroup_id && renew(old, program))
			die("%s: cannot be renewed: %m: see onramp-doctor", path);
	}
}

/* What a link's name has after the hook's: "" where that is all; NULL: it is another hook's. */
static const char *after(const char *link, const char *hook)
{
	size_t length = strlen(hook);

	if (strncmp(link, hook, length) || (link[length] && link[length] != '-'))
		return NULL;
	return link + length + !!link[length];
}

/* Those that onramp-zds has attached to pods' cgroups. */
static void renew_pods_own(const struct bpf_program *program)
{
	DIR *links = opendir(pin("links"));
	const char *whose, *path;
	struct dirent *entry;
	union uid uid;
	int old;

	while (links && (entry = readdir(links))) {
		whose = after(entry->d_name, bpf_program__name(program));
		if (!whose || !uid_of_file(whose, &uid))
			continue;
		path = pin("links/%s", entry->d_name);
		old = pinned(path);
		if (link_info(old).cgroup.cgroup_id && renew(old, program))
			die("%s: cannot be renewed: %m: see onramp-doctor", path);
	}
	if (links)
		closedir(links);
}

static void attach_to_kubelets(const struct bpf_program *program, const struct kubelets *kubelets)
{
	for (int i = 0; i < kubelets->count; i++)
		attach_to_cgroup(program, pin("links/%s-kubelet-%d", bpf_program__name(program), i),
				 kubelets->path[i]);
}

/*
 * Behind what onramp-zds attaches in the netns of enrolled pods. It stays in node mode,
 * where it passes all. What was there is known by its id; without CAP_SYS_ADMIN by the pin.
 */
static void put_behind(const struct bpf_program *program)
{
	int map = pinned_map("inbound_program"), old = -1, new = bpf_program__fd(program);
	__u32 key = 0, id;

	if (!bpf_map_lookup_elem(map, &key, &id))
		old = bpf_prog_get_fd_by_id(id);
	if (old < 0)
		old = bpf_obj_get(pin("programs/%s", bpf_program__name(program)));
	entry_write(bpf_program__name(program), map, &key, old < 0 ? NULL : &old, &new);
}

void programs_attach(struct bpf_object *object, const struct options *options,
		     const struct ztunnels *ztunnels, const struct kubelets *kubelets)
{
	bool in_pod = !options->ztunnels.count; /* where onramp-zds is */

	for (const struct hook *hook = hooks; hook < hooks + HOOKS; hook++) {
		struct bpf_program *program = program_of(object, hook);
		const char *path = pin("links/%s", hook->name);

		if (!is_needed(hook, options, ztunnels->everywhere))
			continue;
		if (hook->where == KERNEL || hook->where == TASKS)
			attach(program, path, false);
		if (hook->where == TASKS)
			pinned_number(hook->name);
		if (hook->where == FILES)
			attach(program, pin("%s", hook->name), false);
		if (hook->where == FILE_OF_PODS)
			attach(program, pin("pods"), true);
		if (hook->where == BEHIND)
			put_behind(program);
		if (in_pod && is_for_zds(hook))
			program_pin(program);
		if (hook->where == ZTUNNELS_OWN)
			attach_to_ztunnels(program, ztunnels);
		if (hook->where == ZTUNNELS_AT_TIMES)
			attach_to_ztunnels(program, NULL);
		if (hook->where == PODS_OWN)
			renew_pods_own(program);
		if (hook->where == KUBELETS)
			attach_to_kubelets(program, kubelets);
		if (hook->where == CGROUP)
			attach_to_cgroup(program, path, options->given['c']);
	}
}

/* Whether a link that is pinned by the hook's name, and then this, is one of those wanted. */
static bool is_wanted(const struct hook *hook, const char *whose, const struct kubelets *kubelets)
{
	union uid uid;

	if (hook->where == KERNEL || hook->where == TASKS || hook->where == CGROUP)
		return !*whose;
	if (is_ztunnels(hook))
		return *whose && strchr("0123", *whose) && !whose[1];
	if (hook->where == PODS_OWN)
		return uid_of_file(whose, &uid);
	if (hook->where == KUBELETS && !strncmp(whose, "kubelet-", strlen("kubelet-")))
		return atoi(whose + strlen("kubelet-")) < kubelets->count;
	return false;
}

/* Whether its cgroup is gone. */
static bool is_dead(const char *path)
{
	int link = bpf_obj_get(path);
	struct bpf_link_info info = link_info(link);

	close(link);
	return info.type == BPF_LINK_TYPE_CGROUP && !info.cgroup.cgroup_id;
}

void programs_detach_others(const struct options *options, const struct ztunnels *ztunnels,
			    const struct kubelets *kubelets)
{
	DIR *links = opendir(pin("links"));
	struct dirent *entry;

	while (links && (entry = readdir(links))) {
		const char *name = entry->d_name, *path = pin("links/%s", name);
		const char *whose;
		/* onramp-zds may be about to give that its name. */
		bool wanted = *name == '.' || !strcmp(name, "new-zds");

		for (const struct hook *hook = hooks; hook < hooks + HOOKS; hook++) {
			whose = after(name, hook->name);
			if (whose && is_needed(hook, options, ztunnels->everywhere))
				wanted |= is_wanted(hook, whose, kubelets);
		}
		if (!wanted || is_dead(path))
			unlink(path); /* of a hook that there is no more, too */
	}
	if (links)
		closedir(links);
	if (!options->ztunnels.count)
		return;
	for (const struct hook *hook = hooks; hook < hooks + HOOKS; hook++)
		if (is_for_zds(hook))
			unlink(pin("programs/%s", hook->name));
	inbound_detach_all(options->given['p']);
}
