/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What onramp remembers of cgroups: cgroup_info_map.
 *
 * A cgroup's entry is made by the first exec or connect() in it, but for a runtime's on
 * its way, and goes with the cgroup. While it lives, its home pod lives in pod_ips
 * (homes.h). Entries change by delete and insert, so that of several CPUs one wins and
 * does the counting.
 */
#ifndef ONRAMP_PODS_H
#define ONRAMP_PODS_H

#include "homes.h"
#include "uids.h"

#define MAX_CGROUP_LEVELS 16
#define MAX_BEGINNERS 8 /* of a container: a runtime, CRI-O's monitor */

WALK int cgroup_forget(__u64 id)
{
	struct cgroup_info *entry = bpf_map_lookup_elem(&cgroup_info_map, &id);
	union addr home_ip[FAMILIES];
	__u64 home;

	if (!entry)
		return 0;
	home = entry->home;
	home_ip[V4] = entry->home_ip[V4];
	home_ip[V6] = entry->home_ip[V6];
	if (!bpf_map_delete_elem(&cgroup_info_map, &id) && home)
		home_release(home, home_ip, false);
	return 0;
}

/* What is sought among a cgroup and those above it. */
enum sought {
	SOUGHT_ID,
	SOUGHT_KUBELET,
	SOUGHT_OTHER_HOME, /* than the netns of that id */
};

WALK int is_sought(__u64 cgroup, int level, __u32 what, __u64 id)
{
	__u64 its_id = cgroup_ancestor_id((struct cgroup *)cgroup, level);
	struct cgroup_info *entry;

	if (what == SOUGHT_ID)
		return its_id == id;
	if (what == SOUGHT_KUBELET)
		return !!bpf_map_lookup_elem(&kubelets, &its_id);
	entry = bpf_map_lookup_elem(&cgroup_info_map, &its_id);
	return entry && entry->home && entry->home != id;
}

/* Whether one of them is: not above the level `top`. */
WALK int cgroup_has(__u64 cgroup, int top, __u32 what, __u64 id)
{
	int level = BPF_CORE_READ((struct cgroup *)cgroup, level);

	for (int i = 0; i < MAX_CGROUP_LEVELS && top + i <= level; i++)
		if (is_sought(cgroup, top + i, what, id))
			return true;
	return false;
}

/* The place of the ztunnel whose cgroup it is, or is below; -1: none's. */
WALK int ztunnel_of(__u64 cgroup)
{
	int level = BPF_CORE_READ((struct cgroup *)cgroup, level);
	struct ztunnel *ztunnel;
	__u64 id;

	for (int i = 0; i < MAX_CGROUP_LEVELS && i <= level; i++) {
		id = cgroup_ancestor_id((struct cgroup *)cgroup, i);
		ztunnel = bpf_map_lookup_elem(&ztunnels, &id);
		if (ztunnel)
			return ztunnel->place;
	}
	return -1;
}

/* Whether the cgroup is below the one that onramp is for. */
WALK int is_recorded(__u64 cgroup)
{
	const struct settings *cfg = current_settings();

	return !cfg || !cfg->root_cgroup || cgroup_has(cgroup, 0, SOUGHT_ID, cfg->root_cgroup);
}

/* Whether the netns of that id and inode is the node's. */
WALK int is_node(__u64 netns, __u32 inum)
{
	const struct settings *cfg = current_settings();

	return cfg && cfg->node_netns ? inum == cfg->node_netns : netns == initial_netns;
}

/*
 * Whether the netns of that id and inode is the node's, or the machine's own, which is
 * no pod either where a container is the node.
 */
WALK int is_no_pod(__u64 netns, __u32 inum)
{
	const struct settings *cfg = current_settings();

	return netns == initial_netns || (cfg && cfg->node_netns && inum == cfg->node_netns);
}

/*
 * Whether anybody may have made the netns, by a user namespace, and given it any address. Not
 * a pod's of Kubernetes' that has such: what a cgroup knows of itself tells, which is not all
 * known before cgroup_note_uid().
 */
static __always_inline bool is_users(struct net *net, __u32 flags)
{
	return (flags & (NETNS_UID | NETNS_MOVED)) != NETNS_UID && netns_is_users(net);
}

/*
 * Notes that the cgroup runs something in net; both are kernel addresses. Global,
 * and by number, for the reason that netns.h's walks are.
 *
 * The home changes when there is none yet, when the home itself has other
 * addresses now, or when the cgroup is back in the node netns (a node program
 * had only visited the pod). Another netns beside the home is none of these:
 * a pod that makes itself a second netns stays where it is in pod_ips.
 */
WALK int remember(__u64 cgroup_number, __u64 net_number)
{
	struct cgroup *cgroup = (void *)cgroup_number;
	struct net *net = (void *)net_number;
	__u64 id = BPF_CORE_READ(cgroup, kn, id);
	struct cgroup_info entry = {};
	struct cgroup_info *old = bpf_map_lookup_elem(&cgroup_info_map, &id);
	bool node;
	int err;

	/* All is known, which is what nearly every exec comes to. */
	if (old && netns_same(net, &old->now) &&
	    is_no_pod(old->now.netns, old->now.inum) == !old->home &&
	    (old->home != old->now.netns || home_is_whole(old)))
		return 0;
	if (!is_recorded(cgroup_number))
		return 0;
	netns_read(net, &entry.now);
	node = is_no_pod(entry.now.netns, entry.now.inum);

	if (old) {
		/* Cgroups keep their names, and where they have been. */
		entry.now.flags |= old->now.flags & (NETNS_NO_UID | NETNS_UID | NETNS_MOVED);
		if (old->now.netns != entry.now.netns)
			entry.now.flags |= NETNS_MOVED;
		entry.home = old->home;
		entry.home_ip[V4] = old->home_ip[V4];
		entry.home_ip[V6] = old->home_ip[V6];
		if (entry.home && !node &&
		    (entry.home != entry.now.netns || home_is_whole(&entry))) {
			if (entry.home == entry.now.netns)
				entry.now.flags |= NETNS_HOME;
			bpf_map_update_elem(&cgroup_info_map, &id, &entry, BPF_EXIST);
			return 0;
		}
		entry.home_ip[V4] = (union addr){};
		entry.home_ip[V6] = (union addr){};
	}
	/*
	 * A pod may make cgroups and netns of its own: they are no pods. Not the root,
	 * though: node programs in it visit pods, and on a hybrid node all are.
	 */
	entry.home = 0;
	if (!node && !is_users(net, entry.now.flags) &&
	    !cgroup_has(cgroup_number, 1, SOUGHT_OTHER_HOME, entry.now.netns))
		entry.home = entry.now.netns;
	if (entry.home) /* before it is left, for it may be the one before, with another address */
		home_join(entry.home, entry.now.ip[V4].half[1], entry.now.ip[V6].half[0],
			  entry.now.ip[V6].half[1]);
	if (old)
		cgroup_forget(id);
	if (entry.home) {
		home_take(&entry, net);
		entry.now.flags |= NETNS_HOME;
	}
	err = bpf_map_update_elem(&cgroup_info_map, &id, &entry, BPF_NOEXIST);
	if (!err)
		return 0;
	/* Another CPU was first: its entry does the counting. Full: the pod stays known. */
	if (entry.home)
		home_release(entry.home, entry.home_ip, err != -EEXIST);
	if (err != -EEXIST)
		count(STAT_CGROUPS_FULL);
	return 0;
}

/* Whether the context's socket is in that netns, and the netns as it was then. */
static __always_inline bool socket_is_in(struct bpf_sock_addr *ctx, const struct netns_info *info)
{
	const struct sock_common *tcp = tcp_fields(ctx->sk);

	if (tcp && netns_has_cookie())
		return netns_same_direct(tcp->skc_net.net, info);
	return netns_same(socket_net(ctx), info);
}

/*
 * The entry in netns_cache of the netns at *net, which may have changed since. False: there
 * is none.
 */
static __always_inline bool netns_cached(const __u64 *net, struct netns_info *now)
{
	struct netns_info *cached = bpf_map_lookup_elem(&netns_cache, net);

	if (!cached)
		return false;
	*now = *cached;
	barrier(); /* looked at again: it may be another netns' by now */
	return cached->netns == now->netns;
}

/* Fills now, which must be zeroed, with a netns, whoever asks. */
static __always_inline void netns_know(struct net *net, struct netns_info *now)
{
	__u64 key = (__u64)net;

	if (netns_cached(&key, now) && netns_same(net, now))
		return;
	netns_read(net, now);
	bpf_map_update_elem(&netns_cache, &key, now, BPF_ANY);
}

/* Whether the current task's cgroup, or one above it, is in `ztunnels`. */
WALK int task_is_ztunnels(void)
{
	for (int level = 0; level < MAX_CGROUP_LEVELS; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id)
			return false;
		if (bpf_map_lookup_elem(&ztunnels, &id))
			return true;
	}
	return false;
}

/*
 * The same of a task in the cgroup of that id, whose entry it is. That it is not so is kept
 * there for as long as `ztunnels` is the same, under the id: it may be another's by now.
 */
static __always_inline bool is_ztunnels(const struct settings *cfg, __u64 cgroup,
					struct cgroup_info *entry)
{
	__u64 hash = cgroup * 0x9e3779b97f4a7c15ULL;
	__u32 pods = ((hash >> 32) + cfg->ztunnels) | 1U << 31; /* never 0 */

	if (!cfg->ztunnels || !entry)
		return task_is_ztunnels();
	if (entry->now.pods == pods)
		return false;
	if (task_is_ztunnels())
		return true;
	entry->now.pods = pods;
	return false;
}

/* The entry, of the caller's cgroup, if it is of the socket's netns as it is now. */
static __always_inline bool cache_read(struct bpf_sock_addr *ctx, const struct cgroup_info *cached,
				       struct netns_info *now)
{
	if (!cached)
		return false;
	*now = cached->now;
	barrier(); /* looked at again: it may be another cgroup's by now */
	return cached->now.netns == now->netns && socket_is_in(ctx, now);
}

/*
 * Fills now with the socket's netns: from the entry of the caller's cgroup, of that id,
 * when that is of this netns as it is now, else from its devices. now must be zeroed.
 */
static __always_inline void socket_netns(struct bpf_sock_addr *ctx, __u64 cgroup,
					 const struct cgroup_info *entry, struct netns_info *now)
{
	struct net *net;

	if (cache_read(ctx, entry, now))
		return;
	count(STAT_CACHE_MISS);
	net = socket_net(ctx);
	initial_netns_learn(bpf_get_current_task());
	remember((__u64)current_cgroup(), (__u64)net);
	cgroup_note_uid((__u64)current_cgroup());
	entry = bpf_map_lookup_elem(&cgroup_info_map, &cgroup);
	if (!cache_read(ctx, entry, now)) /* full, or shared with another netns */
		netns_read(net, now);
	if (now->flags & NETNS_DOUBT)
		count(STAT_DOUBT);
}

/* A ztunnel runs in the netns, which claims the address (two halves). */
WALK int pod_is_ztunnels(__u64 ip0, __u64 ip1, __u64 netns, __u64 net)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct pod_ip *pod = bpf_map_lookup_elem(&pod_ips, &ip);

	if (!pod)
		return 0;
	if (pod->holder.netns == netns)
		pod->holder.is_ztunnels = 1;
	else /* whoever else claims it: a third would have no place */
		pod->other = (struct claim){ .netns = netns, .net = net, .is_ztunnels = 1 };
	return 0;
}

WALK int ztunnel_remember(__u64 id, __u64 net)
{
	struct cgroup_info *entry = bpf_map_lookup_elem(&cgroup_info_map, &id);

	if (!entry)
		return 0;
	pod_is_ztunnels(entry->now.ip[V4].half[0], entry->now.ip[V4].half[1], entry->now.netns,
			net);
	return pod_is_ztunnels(entry->now.ip[V6].half[0], entry->now.ip[V6].half[1],
			       entry->now.netns, net);
}

/*
 * Whether the task, in a pod's cgroup and the node's netns, is the pod's runtime still, on
 * its way into the container: runc's init (1.1) executes itself once more there, and would
 * look like a daemon that leaves the node's netns for a pod's. It was forked and no more,
 * so its nsproxy is that of who began it, outside the pod. No program of a container has
 * that, were its netns the node's, for a container has a mount namespace of its own;
 * nor has a child of one; and whoever enters all of the node's namespaces gets another
 * nsproxy. The parent may be in the pod's cgroup itself, as CRI-O's monitor is.
 */
WALK int is_runtimes(__u64 number)
{
	struct task_struct *task = (void *)number, *from = task;
	struct cgroup *pods = (void *)pod_cgroup((__u64)BPF_CORE_READ(task, cgroups, dfl_cgrp));
	struct cgroup *cgroup;
	int level;

	if ((__u64)pods <= TOO_DEEP)
		return false;
	level = BPF_CORE_READ(pods, level);
	for (int i = 0; i < MAX_BEGINNERS; i++) {
		from = BPF_CORE_READ(from, real_parent);
		cgroup = BPF_CORE_READ(from, cgroups, dfl_cgrp);
		if (BPF_CORE_READ(cgroup, level) < level ||
		    cgroup_ancestor_id(cgroup, level) != BPF_CORE_READ(pods, kn, id))
			return BPF_CORE_READ(from, nsproxy) == BPF_CORE_READ(task, nsproxy);
	}
	return false;
}

/*
 * What a task tells, from exec and from what ran before the load. Of a cgroup that has no
 * entry even then nobody knows where it has been before.
 */
static __always_inline void task_remember(struct task_struct *task)
{
	struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	struct cgroup_info *entry;
	bool node;
	__u64 id;

	initial_netns_learn((__u64)task);
	if (!net || !cgroup) /* a kernel thread, or already dead */
		return;
	id = BPF_CORE_READ(cgroup, kn, id);
	node = is_no_pod(netns_id(net), BPF_CORE_READ(net, ns.inum));
	entry = bpf_map_lookup_elem(&cgroup_info_map, &id);
	if (node && !(entry && entry->now.flags & NETNS_NO_UID) && is_runtimes((__u64)task))
		return;
	remember((__u64)cgroup, (__u64)net);
	cgroup_note_uid((__u64)cgroup);
	if (netns_is_users(net))
		remember((__u64)cgroup, (__u64)net);
	entry = bpf_map_lookup_elem(&cgroup_info_map, &id);
	if (!node && !(entry && entry->now.flags & NETNS_NO_UID))
		pod_learn((__u64)cgroup, (__u64)net, BPF_CORE_READ(task, tgid),
			  !entry || entry->now.flags & NETNS_MOVED);
	if (ztunnel_of((__u64)cgroup) >= 0)
		ztunnel_remember(id, (__u64)net);
}

#endif
