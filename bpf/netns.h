/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a netns is: whose it is and which addresses it holds, read from the
 * kernel's own structures (struct net, net_device, in_device, inet6_dev), all
 * of them walked in bounds and by faulting-safe reads.
 */
#ifndef ONRAMP_NETNS_H
#define ONRAMP_NETNS_H

#include "addr.h"

#define MAX_DEVICES 32	 /* of a netns: a pod has two, a large node begins so */
#define MAX_ADDRESSES 32 /* of a device and family */
#define NODE_ROWS 32	 /* of these many: a node may have a device for each pod */
#define MAX_ANCESTORS 64 /* of a process, up to pid 0 */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct user_namespace {
	int level; /* 0: that of the machine's root */
};

struct net___owned {
	struct user_namespace *user_ns;
};

#pragma clang attribute pop

/* Whether it was made in a user namespace, which asks for no capability. */
static __always_inline bool netns_is_users(struct net *net)
{
	return BPF_CORE_READ((struct net___owned *)net, user_ns, level);
}

/* A number that says where pos, in the list at head, leads; 0 at the end. */
static __always_inline __u64 list_after(__u64 pos, __u64 head)
{
	__u64 next = (__u64)BPF_CORE_READ((struct list_head *)pos, next);

	return next == head ? 0 : next;
}

/* The same, for loops. What a loop calls has it inline, for another call takes more stack. */
WALK __u64 list_next(__u64 pos, __u64 head)
{
	return list_after(pos, head);
}

/*
 * Beside the number of an entry, which is even, or instead: it is the one sought. Loops ask
 * a function of their own about each entry, for what a loop has in it is followed each time.
 */
#define FOUND 1

static __always_inline __u64 device_list(struct net *net)
{
	return (__u64)net + offsetof(struct net, dev_base_head);
}

static __always_inline struct net_device *device_at(__u64 pos)
{
	return (void *)pos - offsetof(struct net_device, dev_list);
}

static __always_inline bool is_loopback(__u64 dev)
{
	return BPF_CORE_READ((struct net_device *)dev, flags) & IFF_LOOPBACK;
}

/*
 * The first address of a device, by its entry; 0: none. Sets head to that of the list, which
 * is 0 for IPv4's, as that one just ends.
 */
static __always_inline __u64 addr_first(struct net_device *dev, __u32 family, __u64 *head)
{
	__u64 idev;

	*head = 0;
	if (family == V4)
		return (__u64)BPF_CORE_READ(dev, ip_ptr, ifa_list);
	idev = (__u64)BPF_CORE_READ(dev, ip6_ptr);
	if (!idev)
		return 0; /* it has no IPv6 */
	*head = idev + offsetof(struct inet6_dev, addr_list);
	return list_next(*head, *head);
}

static __always_inline __u64 addr_after(__u64 pos, __u64 head)
{
	return head ? list_after(pos, head) :
		      (__u64)BPF_CORE_READ((struct in_ifaddr *)pos, ifa_next);
}

/* An address by its entry; nothing, all zero, of a pos of 0. */
static __always_inline void addr_read(__u64 pos, bool v4, union addr *ip)
{
	struct inet6_ifaddr *ifa = container_of((void *)pos, struct inet6_ifaddr, if_list);
	__u32 ip4;

	if (!v4) {
		bpf_core_read(ip, sizeof(*ip), &ifa->addr);
		return;
	}
	ip4 = BPF_CORE_READ((struct in_ifaddr *)pos, ifa_local);
	*ip = ip4 ? addr_from_v4(ip4) : (union addr){};
}

/*
 * FOUND, beside itself, if an address can be a pod's: global, and if it is IPv6 given to the
 * device, not made by the kernel because a router on the link said so. Any pod that can send
 * raw packets is such a router. Else the next one, or 0.
 */
WALK __u64 addr_is_pods(__u64 pos, __u64 head)
{
	struct inet6_ifaddr *ifa = container_of((void *)pos, struct inet6_ifaddr, if_list);
	union addr ip;
	bool is;

	if (head) {
		addr_read(pos, false, &ip);
		is = !addr_is_link_local_v6(&ip) && BPF_CORE_READ(ifa, flags) & IFA_F_PERMANENT;
	} else {
		is = !BPF_CORE_READ((struct in_ifaddr *)pos, ifa_scope); /* RT_SCOPE_UNIVERSE */
	}
	return is ? pos | FOUND : addr_after(pos, head);
}

/* The first of a device, not loopback, that can be a pod's, by its entry; 0: none. */
WALK __u64 device_ip(__u64 dev, __u32 family)
{
	__u64 head, pos = addr_first((struct net_device *)dev, family, &head);

	if (is_loopback(dev))
		return 0;
	for (int i = 0; i < MAX_ADDRESSES && pos && !(pos & FOUND); i++)
		pos = addr_is_pods(pos, head);
	return pos & FOUND ? pos - FOUND : 0;
}

static __always_inline __u32 device_index(__u64 pos)
{
	return BPF_CORE_READ(device_at(pos), ifindex);
}

/*
 * Of two devices, by their list entries, the one whose address is the pod's. best may be 0;
 * ip is what device_ip() says of the other.
 */
WALK __u64 pod_device(__u64 best, __u64 pos, __u64 ip)
{
	if (!ip)
		return best;
	return best && device_index(best) < device_index(pos) ? best : pos;
}

/*
 * Of the lowest-index device that has an address of the family: what device_ip() says, or
 * its index; 0: there is none. One for both, for the verifier follows it once.
 */
WALK __u64 netns_pod(__u64 net, __u32 family, bool index)
{
	__u64 head = device_list((struct net *)net);
	__u64 pos = list_next(head, head), best = 0;

	for (int i = 0; i < MAX_DEVICES && pos; i++) {
		best = pod_device(best, pos, device_ip((__u64)device_at(pos), family));
		pos = list_next(pos, head);
	}
	if (!best)
		return 0;
	return index ? device_index(best) : device_ip((__u64)device_at(best), family);
}

/* What a census counts, 16 bits each. */
#define CENSUS(n) (1ULL << (16 * (n)))
#define CENSUS_V4 CENSUS(V4) /* addresses that others could dial */
#define CENSUS_V6 CENSUS(V6)
#define CENSUS_SOUGHT CENSUS(2) /* addresses that are the one sought */
#define CENSUS_DOUBT CENSUS(3)	/* walks that were cut short */
#define COUNTED(census, of) ((census) / (of)&0xffff)

WALK __u64 addr_census(__u64 pos, __u64 head, __u64 sought0, __u64 sought1)
{
	__u64 census = 0;
	union addr ip;

	addr_read(pos, !head, &ip);
	if (!addr_stays_here(&ip) && !addr_is_link_local_v6(&ip))
		census += head ? CENSUS_V6 : CENSUS_V4;
	if (!((ip.half[0] ^ sought0) | (ip.half[1] ^ sought1)))
		census += CENSUS_SOUGHT;
	return census;
}

WALK __u64 addr_next(__u64 pos, __u64 head)
{
	return addr_after(pos, head);
}

/* Of a device's addresses of a family. */
WALK __u64 device_census(__u64 dev, __u32 family, __u64 sought0, __u64 sought1)
{
	__u64 head, pos = addr_first((struct net_device *)dev, family, &head), census = 0;

	for (int i = 0; i < MAX_ADDRESSES && pos; i++) {
		census += addr_census(pos, head, sought0, sought1);
		pos = addr_next(pos, head);
	}
	return pos ? census + CENSUS_DOUBT : census;
}

/* Of all addresses of the netns; the one sought in two halves. */
WALK __u64 netns_census(__u64 net, __u64 sought0, __u64 sought1)
{
	__u64 head = device_list((struct net *)net);
	__u64 pos = list_next(head, head), census = 0;

	for (int i = 0; i < MAX_DEVICES && pos; i++) {
		census += device_census((__u64)device_at(pos), V4, sought0, sought1);
		census += device_census((__u64)device_at(pos), V6, sought0, sought1);
		pos = list_next(pos, head);
	}
	return pos ? census + CENSUS_DOUBT : census;
}

/* Whether ip is an address of the netns, pod address or not. */
static __always_inline bool netns_has(struct net *net, const union addr *ip)
{
	return COUNTED(netns_census((__u64)net, ip->half[0], ip->half[1]), CENSUS_SOUGHT);
}

/* The same, or not known: it has more devices or addresses than are read. */
static __always_inline bool netns_may_have_it(struct net *net, const union addr *ip)
{
	__u64 census = netns_census((__u64)net, ip->half[0], ip->half[1]);

	return COUNTED(census, CENSUS_SOUGHT) || COUNTED(census, CENSUS_DOUBT);
}

/* FOUND: the address is this (two halves); else the next, or 0. */
WALK __u64 addr_is(__u64 pos, __u64 head, __u64 ip0, __u64 ip1)
{
	union addr ip;

	addr_read(pos, !head, &ip);
	return ip.half[0] == ip0 && ip.half[1] == ip1 ? FOUND : addr_after(pos, head);
}

/* FOUND: one of the addresses from that one on, a row of them, is this; else the next, or 0. */
WALK __u64 addr_row_has(__u64 pos, __u64 head, __u64 ip0, __u64 ip1)
{
	for (int i = 0; i < MAX_ADDRESSES && pos > FOUND; i++) pos = addr_is(pos, head, ip0, ip1);
	return pos;
}

/* Whether a device has the address (two halves). */
WALK int device_has(__u64 dev, __u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } };
	__u64 head, pos = addr_first((struct net_device *)dev, addr_family(&ip), &head);

	for (int i = 0; i < NODE_ROWS && pos > FOUND; i++) pos = addr_row_has(pos, head, ip0, ip1);
	return pos == FOUND;
}

/* FOUND: a device of the row that begins at pos has the address; else the next row, or 0. */
WALK __u64 row_has(__u64 pos, __u64 head, __u64 ip0, __u64 ip1)
{
	for (int i = 0; i < MAX_DEVICES && pos; i++) {
		if (device_has((__u64)device_at(pos), ip0, ip1))
			return FOUND;
		pos = list_next(pos, head);
	}
	return pos;
}

/* netns_has() of the node's, which has a device for each pod; the address in two halves. */
WALK int node_has(__u64 net, __u64 ip0, __u64 ip1)
{
	__u64 head = device_list((struct net *)net);
	__u64 pos = list_next(head, head);

	for (int i = 0; i < NODE_ROWS && pos > FOUND; i++) pos = row_has(pos, head, ip0, ip1);
	return pos == FOUND;
}

/* The pod address of a family; zero: none. */
static __always_inline void netns_pod_addr(struct net *net, enum family family, union addr *ip)
{
	addr_read(netns_pod((__u64)net, family, false), family == V4, ip);
}

/*
 * netns_id() of the netns that the machine booted with, which is that of pid 0; 0:
 * not known yet. Asked for once, for a process may have as many ancestors as it
 * likes. A symbol for that netns would be nearer, but kptr_restrict may hide it; an
 * inode number would do, but an init container cannot see the node's.
 */
__u64 initial_netns __weak;

/* Fills info from the netns' devices, but for NETNS_HOME. */
static __always_inline void netns_read(struct net *net, struct netns_info *info)
{
	__u64 census;

	info->pods = 0;
	info->netns = netns_id(net);
	info->inum = BPF_CORE_READ(net, ns.inum);
	info->flags = info->netns == initial_netns ? NETNS_INITIAL : 0;
	/* First, so that what changes while we read makes the result stale. */
	netns_generation(net, info->gen);
	netns_pod_addr(net, V4, &info->ip[V4]);
	netns_pod_addr(net, V6, &info->ip[V6]);
	census = netns_census((__u64)net, 0, 0);
	if (COUNTED(census, CENSUS_DOUBT))
		info->flags |= NETNS_MORE_V4 | NETNS_MORE_V6 | NETNS_DOUBT;
	if (COUNTED(census, CENSUS_V4) > !addr_is_zero(&info->ip[V4]))
		info->flags |= NETNS_MORE_V4;
	if (COUNTED(census, CENSUS_V6) > !addr_is_zero(&info->ip[V6]))
		info->flags |= NETNS_MORE_V6;
}

/* Whether info is of this net, and what netns_read() would fill in again. */
static __always_inline bool netns_same(struct net *net, const struct netns_info *info)
{
	__u32 gen[3];

	if (netns_id(net) != info->netns)
		return false;
	netns_generation(net, gen);
	return gen[0] == info->gen[0] && gen[1] == info->gen[1] && gen[2] == info->gen[2];
}

/* netns_same() by plain loads, for a net that the verifier knows. Not before 5.12. */
static __always_inline bool netns_same_direct(const struct net *net, const struct netns_info *info)
{
	return net->net_cookie == info->netns && net->dev_base_seq == info->gen[0] &&
	       (__u32)net->ipv4.dev_addr_genid.counter == info->gen[1] &&
	       (__u32)net->ipv6.dev_addr_genid.counter == info->gen[2];
}

/* Whether the devices have to be asked for ip, which is not its pod address. */
static __always_inline bool netns_may_have(const struct netns_info *info, const union addr *ip)
{
	return info->flags & (NETNS_MORE_V4 << addr_family(ip)) || addr_is_link_local_v6(ip);
}

/* Whether net is the netns of that id, and ip is its pod address. */
static __always_inline bool netns_holds(struct net *net, __u64 id, const union addr *ip)
{
	union addr held;

	if (netns_id(net) != id)
		return false;
	netns_pod_addr(net, addr_family(ip), &held);
	return addr_equal(&held, ip);
}

/* FOUND, beside itself, if a task is the machine's first, pid 0; else its parent. */
WALK __u64 task_is_first(__u64 task)
{
	if (!BPF_CORE_READ((struct task_struct *)task, pid))
		return task | FOUND;
	return (__u64)BPF_CORE_READ((struct task_struct *)task, real_parent);
}

/* That of the machine: every process' last ancestor. 0: too far up. */
WALK __u64 first_task(__u64 task)
{
	/* A pod may make its line as long as it likes. */
	for (int i = 0; i < MAX_ANCESTORS && !(task & FOUND); i++) task = task_is_first(task);
	return task & FOUND ? task - FOUND : 0;
}

static __always_inline void initial_netns_learn(__u64 task)
{
	struct task_struct *first;

	if (initial_netns)
		return;
	first = (void *)first_task(task);
	if (first)
		initial_netns = netns_id(BPF_CORE_READ(first, nsproxy, net_ns));
}

static __always_inline bool netns_is_node(const struct settings *cfg, const struct netns_info *info)
{
	if (cfg && cfg->node_netns)
		return info->inum == cfg->node_netns;
	return info->flags & NETNS_INITIAL;
}

#endif
