/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * homes: which netns are cgroups' homes, and of how many. pod_ips: which of them holds an
 * address, likewise. Each goes with the last of its cgroups. Verdicts never rest on the
 * counting: who finds a pod here asks its netns whether it still holds the address.
 */
#ifndef ONRAMP_HOMES_H
#define ONRAMP_HOMES_H

#include "maps.h"
#include "netns.h"

/* Counts one more home in the pod at an address (two halves). False: full, or another's. */
WALK int pod_take(__u64 ip0, __u64 ip1, __u64 netns, __u64 net)
{
	struct pod_ip fresh = { .holder = { .netns = netns, .net = net }, .cgroups = 1 };
	union addr ip = { .half = { ip0, ip1 } };
	struct pod_ip *pod;
	int err; /* as the kernel's: 5.10 returns no long */

	for (int try = 0; try < 2; try++) {
		pod = bpf_map_lookup_elem(&pod_ips, &ip);
		if (pod && pod->holder.netns != netns)
			return false;
		if (pod) {
			__sync_fetch_and_add(&pod->cgroups, 1);
			/* Unless its last home has just taken it away. */
			if (bpf_map_lookup_elem(&pod_ips, &ip) == pod)
				return true;
			continue;
		}
		err = bpf_map_update_elem(&pod_ips, &ip, &fresh, BPF_NOEXIST);
		if (!err)
			return true;
		if (err != -EEXIST)
			break;
	}
	count(STAT_PODS_FULL);
	return false;
}

static __always_inline bool claim_stands(const struct claim *claim, const union addr *ip)
{
	return claim->netns && netns_holds((struct net *)claim->net, claim->netns, ip);
}

/*
 * Whether a netns had an address (two halves) from the first, so that its runtime gave it. A
 * pod that may change its addresses gives itself any, others' too.
 */
WALK int is_given(__u64 netns, __u64 ip0, __u64 ip1)
{
	struct home *home = bpf_map_lookup_elem(&homes, &netns);
	union addr ip = { .half = { ip0, ip1 } };

	return !home || addr_equal(&home->given[addr_family(&ip)], &ip);
}

/*
 * Makes room at an address (two halves) for a pod in netns, where another has given it
 * up, or gave it to itself. False: that one holds it still, and by as good a right. Whose it
 * is cannot be told then, and both are kept, so that neither takes the other out of the mesh.
 */
WALK int pod_makes_room(__u64 ip0, __u64 ip1, __u64 netns, __u64 net)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct pod_ip *pod = bpf_map_lookup_elem(&pod_ips, &ip);
	bool given, held;

	if (!pod || pod->holder.netns == netns)
		return true;
	given = is_given(netns, ip0, ip1);
	held = pod->holder.is_ztunnels || is_given(pod->holder.netns, ip0, ip1);
	if (!claim_stands(&pod->holder, &ip) || (given && !held)) {
		bpf_map_delete_elem(&pod_ips, &ip);
		return true;
	}
	if (given == held && !claim_stands(&pod->other, &ip))
		pod->other = (struct claim){ .netns = netns, .net = net };
	return false;
}

/*
 * Takes one home from the pod, and with its last one the pod, unless it is kept; another
 * that claims the address has it then.
 */
WALK int pod_release(__u64 ip0, __u64 ip1, __u64 netns, bool keep)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct pod_ip *pod = bpf_map_lookup_elem(&pod_ips, &ip);

	if (!pod || pod->holder.netns != netns)
		return 0;
	__sync_fetch_and_add(&pod->cgroups, -1);
	if ((__s32)pod->cgroups > 0 || keep)
		return 0;
	if (!pod->other.netns)
		return bpf_map_delete_elem(&pod_ips, &ip);
	pod->holder = pod->other;
	pod->other = (struct claim){};
	pod->cgroups = 1;
	return 0;
}

/* One more cgroup has the netns as its home, whose pod addresses these are now, in halves. */
WALK int home_join(__u64 netns, __u64 v4, __u64 v6_0, __u64 v6_1)
{
	struct home *home, fresh = { .cgroups = 1, .given[V6].half = { v6_0, v6_1 } };
	int err;

	fresh.given[V4].half[1] = v4;
	for (int try = 0; try < 2; try++) {
		err = bpf_map_update_elem(&homes, &netns, &fresh, BPF_NOEXIST);
		if (err != -EEXIST)
			break;
		home = bpf_map_lookup_elem(&homes, &netns);
		if (!home)
			continue;
		__sync_fetch_and_add(&home->cgroups, 1);
		if (addr_is_zero(&home->given[V4]) && addr_is_zero(&home->given[V6])) {
			home->given[V4] = fresh.given[V4];
			home->given[V6] = fresh.given[V6];
		}
		/* Unless its last one has just left. */
		if (bpf_map_lookup_elem(&homes, &netns) == home)
			break;
	}
	return 0;
}

/* One less. The numbers of a netns that is nobody's home are left to the next exec. */
WALK int home_leave(__u64 netns)
{
	struct home *home = bpf_map_lookup_elem(&homes, &netns);

	if (home) {
		__sync_fetch_and_add(&home->cgroups, -1);
		if ((__s32)home->cgroups > 0)
			return 0;
		bpf_map_delete_elem(&homes, &netns);
	}
	return bpf_map_push_elem(&homeless, &netns, BPF_EXIST);
}

/* A cgroup leaves its home, whose addresses these are; those not held are zero. */
static __always_inline void home_release(__u64 home, const union addr ip[FAMILIES], bool keep)
{
	home_leave(home);
	if (!addr_is_zero(&ip[V4]))
		pod_release(ip[V4].half[0], ip[V4].half[1], home, keep);
	if (!addr_is_zero(&ip[V6]))
		pod_release(ip[V6].half[0], ip[V6].half[1], home, keep);
}

static __always_inline bool home_takes(const union addr *ip, __u64 netns, struct net *net)
{
	return !addr_is_zero(ip) && pod_makes_room(ip->half[0], ip->half[1], netns, (__u64)net) &&
	       pod_take(ip->half[0], ip->half[1], netns, (__u64)net);
}

/* The netns is the home, whether or not another holds its addresses. */
static __always_inline void home_take(struct cgroup_info *entry, struct net *net)
{
	const struct netns_info *now = &entry->now;

	if (home_takes(&now->ip[V4], now->netns, net))
		entry->home_ip[V4] = now->ip[V4];
	if (home_takes(&now->ip[V6], now->netns, net))
		entry->home_ip[V6] = now->ip[V6];
}

/* Whether the entry's home has all its addresses in pod_ips. */
static __always_inline bool home_is_whole(const struct cgroup_info *entry)
{
	return addr_equal(&entry->home_ip[V4], &entry->now.ip[V4]) &&
	       addr_equal(&entry->home_ip[V6], &entry->now.ip[V6]);
}

#endif
