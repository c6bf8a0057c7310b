/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What onramp remembers of cgroups and pods: cgroup_info_map and pod_ips.
 *
 * A cgroup's entry is made by the first exec or connect() in it and goes with
 * the cgroup. While the entry lives, its home pod lives in pod_ips; the pod
 * goes with its last cgroup. Entries change by delete and insert, so that of
 * several CPUs one wins and does the counting. Verdicts never rest on the
 * counting: who finds a pod in pod_ips asks its netns whether it still holds
 * the address.
 */
#ifndef ONRAMP_PODS_H
#define ONRAMP_PODS_H

#include "maps.h"
#include "netns.h"

#define MAX_CGROUP_LEVELS 16

/*
 * Counts one more home in the pod at an address (two halves). numbers: it may have
 * had some. False: full, or another live pod's. Global, as netns.h's walks are.
 */
WALK int pod_take(__u64 ip0, __u64 ip1, __u64 netns, __u64 net, bool numbers)
{
	struct pod fresh = { .netns = netns, .net = net, .cgroups = 1, .numbers = numbers };
	union addr ip = { .half = { ip0, ip1 } };
	struct pod *pod;
	long err;

	for (int try = 0; try < 2; try++) {
		pod = bpf_map_lookup_elem(&pod_ips, &ip);
		if (pod && pod->netns == netns) {
			__sync_fetch_and_add(&pod->cgroups, 1);
			/* Unless its last home has just taken it away. */
			if (bpf_map_lookup_elem(&pod_ips, &ip) == pod)
				return true;
			continue;
		}
		if (pod && netns_is_alive((struct net *)pod->net, pod->netns))
			return false;
		err = bpf_map_update_elem(&pod_ips, &ip, &fresh, pod ? BPF_ANY : BPF_NOEXIST);
		if (!err)
			return true;
		if (err != -EEXIST)
			break;
	}
	count(STAT_PODS_FULL);
	return false;
}

/* Takes one home from the pod, and with its last one the pod, unless it is kept. */
WALK int pod_release(__u64 ip0, __u64 ip1, __u64 netns, bool keep)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct pod *pod = bpf_map_lookup_elem(&pod_ips, &ip);

	if (!pod || pod->netns != netns)
		return 0;
	__sync_fetch_and_add(&pod->cgroups, -1);
	if ((__s32)pod->cgroups <= 0 && !keep)
		bpf_map_delete_elem(&pod_ips, &ip);
	return 0;
}

/* For both addresses of a home; those not held are zero. */
static __always_inline void home_release(__u64 home, const union addr ip[FAMILIES], bool keep)
{
	if (!addr_is_zero(&ip[V4]))
		pod_release(ip[V4].half[0], ip[V4].half[1], home, keep);
	if (!addr_is_zero(&ip[V6]))
		pod_release(ip[V6].half[0], ip[V6].half[1], home, keep);
}

static __always_inline bool home_takes(const union addr *ip, __u64 netns, struct net *net,
				       bool numbers)
{
	return !addr_is_zero(ip) && pod_take(ip->half[0], ip->half[1], netns, (__u64)net, numbers);
}

/* entry->home, until then: not 0 if the netns was known by other addresses. */
static __always_inline void home_take(struct cgroup_info *entry, struct net *net)
{
	const struct netns_info *now = &entry->now;

	if (home_takes(&now->ip[V4], now->netns, net, entry->home))
		entry->home_ip[V4] = now->ip[V4];
	if (home_takes(&now->ip[V6], now->netns, net, entry->home))
		entry->home_ip[V6] = now->ip[V6];
	entry->home = !addr_is_zero(&entry->home_ip[V4]) || !addr_is_zero(&entry->home_ip[V6]) ?
			      now->netns :
			      0;
}

/* Global, as netns.h's walks are: remember() has no stack to spare. */
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

/* cgroup_ancestor_id() by itself, for the loops. */
WALK __u64 ancestor_id(__u64 cgroup, int level)
{
	return cgroup_ancestor_id((struct cgroup *)cgroup, level);
}

WALK int cgroup_is_within(__u64 cgroup, __u64 id)
{
	int level = BPF_CORE_READ((struct cgroup *)cgroup, level);

	for (int i = 0; i < MAX_CGROUP_LEVELS && i <= level; i++)
		if (ancestor_id(cgroup, i) == id)
			return true;
	return false;
}

/* Whether a socket was made in the cgroup of that id, or below it. */
static __always_inline bool socket_is_within(struct sock *sk, __u64 id)
{
	struct cgroup *owner = socket_cgroup(sk);

	return owner && cgroup_is_within((__u64)owner, id);
}

/* Whether the cgroup above, of that level, has another home than the netns. */
WALK int is_other_home(__u64 cgroup, int level, __u64 netns)
{
	__u64 id = cgroup_ancestor_id((struct cgroup *)cgroup, level);
	struct cgroup_info *above = bpf_map_lookup_elem(&cgroup_info_map, &id);

	return above && above->home && above->home != netns;
}

/*
 * Whether any cgroup above has. A pod may make cgroups below its own, and netns in
 * which it holds what addresses it likes: they are no pods.
 */
WALK int is_below_other_home(__u64 cgroup, __u64 netns)
{
	int level = BPF_CORE_READ((struct cgroup *)cgroup, level);

	/* Not the root: node programs in it visit pods, and on a hybrid node all are. */
	for (int i = 1; i < MAX_CGROUP_LEVELS && i < level; i++)
		if (is_other_home(cgroup, i, netns))
			return 1;
	return 0;
}

/*
 * Notes that the cgroup runs something in net, seen by task; all three are
 * kernel addresses. Global, and by number, for the reason that netns.h's walks
 * are.
 *
 * The home changes when there is none yet, when the home itself has other
 * addresses now, or when the cgroup is back in the node netns (a node program
 * had only visited the pod). Another netns beside the home is none of these:
 * a pod that makes itself a second netns stays where it is in pod_ips.
 */
WALK int remember(__u64 cgroup_number, __u64 net_number, __u64 task_number)
{
	struct cgroup *cgroup = (void *)cgroup_number;
	struct net *net = (void *)net_number;
	const struct settings *cfg = current_settings();
	__u64 id = BPF_CORE_READ(cgroup, kn, id);
	struct cgroup_info entry = {};
	struct cgroup_info *old = bpf_map_lookup_elem(&cgroup_info_map, &id);
	bool node;
	long err;

	/* All is known, which is what nearly every exec comes to. */
	if (old && netns_unchanged(net, &old->now) &&
	    netns_is_no_pod(cfg, &old->now) == !old->home &&
	    (!cfg || old->outside == cfg->ztunnel_cgroup))
		return 0;
	if (cfg && cfg->root_cgroup && !cgroup_is_within(cgroup_number, cfg->root_cgroup))
		return 0;
	entry.now.flags = netns_initial(net_number, task_number);
	netns_read(net, &entry.now);
	node = netns_is_no_pod(cfg, &entry.now);
	if (cfg && cfg->ztunnel_cgroup && !cgroup_is_within(cgroup_number, cfg->ztunnel_cgroup))
		entry.outside = cfg->ztunnel_cgroup;

	if (old) {
		entry.home = old->home;
		entry.home_ip[V4] = old->home_ip[V4];
		entry.home_ip[V6] = old->home_ip[V6];
		if (entry.home && !node &&
		    (entry.home != entry.now.netns ||
		     (addr_equal(&entry.home_ip[V4], &entry.now.ip[V4]) &&
		      addr_equal(&entry.home_ip[V6], &entry.now.ip[V6])))) {
			bpf_map_update_elem(&cgroup_info_map, &id, &entry, BPF_EXIST);
			return 0;
		}
		cgroup_forget(id);
		entry.home_ip[V4] = (union addr){};
		entry.home_ip[V6] = (union addr){};
	}
	if (!node && !is_below_other_home((__u64)cgroup, entry.now.netns))
		home_take(&entry, net);
	else
		entry.home = 0;
	err = bpf_map_update_elem(&cgroup_info_map, &id, &entry, BPF_NOEXIST);
	if (!err)
		return 0;
	/* Another CPU was first: its entry does the counting. Full: the pod stays known. */
	home_release(entry.home, entry.home_ip, err != -EEXIST);
	if (err != -EEXIST)
		count(STAT_CGROUPS_FULL);
	return 0;
}

/* The same from a task, for exec and for what ran before the load. */
static __always_inline void task_remember(struct task_struct *task)
{
	struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);

	if (net && cgroup) /* else a kernel thread, or already dead */
		remember((__u64)cgroup, (__u64)net, (__u64)task);
}

#endif
