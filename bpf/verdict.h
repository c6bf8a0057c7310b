/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The verdict of connect(), for both families: the contract's table in order,
 * one comment per line of it.
 */
#ifndef ONRAMP_VERDICT_H
#define ONRAMP_VERDICT_H

#include "enrolment.h"
#include "pods.h"

#define ALLOW 1	 /* let the next program decide */
#define REFUSE 0 /* connect() fails with EPERM */
#define DNS_PORT 53

/*
 * Fills entry->now with the socket's netns: from the cache of the caller's
 * cgroup when that is of this netns as it is now, else from its devices.
 * Returns whether ip is one of its addresses.
 */
static __always_inline bool socket_netns(struct bpf_sock_addr *ctx, const union addr *ip,
					 struct cgroup_info *entry)
{
	struct net *net = BPF_CORE_READ(kernel_socket(ctx), __sk_common.skc_net.net);
	__u64 id = bpf_get_current_cgroup_id();
	struct cgroup_info *cached = bpf_map_lookup_elem(&cgroup_info_map, &id);
	struct netns_info *now = &entry->now;
	struct task_struct *task;

	if (cached) {
		*now = cached->now;
		barrier(); /* looked at again: it may be another cgroup's by now */
		if (cached->now.netns == now->netns && netns_unchanged(net, now)) {
			enum family family = addr_family(ip);

			if (addr_equal(ip, &now->ip[family]))
				return true;
			if (now->flags & (NETNS_MORE_V4 << family) || addr_is_link_local_v6(ip))
				return netns_has(net, ip);
			return false;
		}
	}

	count(STAT_CACHE_MISS);
	task = (struct task_struct *)bpf_get_current_task();
	now->flags = netns_initial(net, task);
	netns_read(net, now);
	if (now->flags & NETNS_DOUBT)
		count(STAT_DOUBT);
	cgroup_remember(BPF_CORE_READ(task, cgroups, dfl_cgrp), net, entry);
	return netns_has(net, ip);
}

/* By its cgroup where that is known, else as the pod with ztunnel's address. */
static __always_inline bool is_ztunnel(const struct settings *cfg, const struct netns_info *info)
{
	if (cfg->ztunnel_cgroup) {
		for (int level = 0; level < MAX_CGROUP_LEVELS; level++) {
			__u64 id = bpf_get_current_ancestor_cgroup_id(level);

			if (!id)
				break;
			if (id == cfg->ztunnel_cgroup)
				return true;
		}
		return false;
	}
	for (int family = V4; family < FAMILIES; family++) {
		const struct pod *pod;

		if (addr_is_zero(&cfg->ztunnel[family]) ||
		    !addr_equal(&cfg->ztunnel[family], &info->ip[family]))
			continue;
		/* A pod may put any address on its device: the first one wins. */
		pod = bpf_map_lookup_elem(&pod_ips, &cfg->ztunnel[family]);
		if (pod && pod->netns == info->netns)
			return true;
	}
	return false;
}

/* Whether ip is a pod of this node that is enrolled. Reads it into info. */
static __always_inline bool is_local_enrolled_pod(const union addr *ip, struct netns_info *info)
{
	struct pod *pod = bpf_map_lookup_elem(&pod_ips, ip);

	return pod && pod_read(pod, ip, info) && is_enrolled(info->ip);
}

/*
 * Decides on a TCP connect() to `to`. Returns ALLOW or REFUSE, counts it, and
 * fills via when the connection is to go there instead.
 */
static __always_inline int connect_verdict(struct bpf_sock_addr *ctx, const struct endpoint *to,
					   struct endpoint *via)
{
	const struct settings *cfg = current_settings();
	enum family family = addr_family(&to->ip);
	struct cgroup_info entry = {};
	struct netns_info *now = &entry.now;
	enum counter counter;
	bool own;

	if (!cfg || (addr_is_zero(&cfg->ztunnel[V4]) && addr_is_zero(&cfg->ztunnel[V6]))) {
		count(STAT_NO_ZTUNNEL); /* 1 */
		return ALLOW;
	}
	if (addr_stays_here(&to->ip)) {
		count(STAT_LOCAL); /* 3, or 2: both pass */
		return ALLOW;
	}
	own = socket_netns(ctx, &to->ip, &entry);
	if (is_ztunnel(cfg, now)) {
		count(STAT_ZTUNNEL); /* 2 */
		return ALLOW;
	}
	if (own) {
		count(STAT_LOCAL); /* 3 */
		return ALLOW;
	}
	if (rule_of(&bypass_rules, &to->ip) == RULE_BYPASS) {
		count(STAT_BYPASSED); /* 3 */
		return ALLOW;
	}
	if (netns_is_node(cfg, now)) {
		if (cfg->flags & NO_HOST_CAPTURE || !is_local_enrolled_pod(&to->ip, now)) {
			count(STAT_NODE); /* 8 */
			return ALLOW;
		}
		via->port = cfg->inbound_port; /* 7 */
		counter = STAT_INBOUND;
	} else if (!is_enrolled(now->ip)) {
		count(STAT_NOT_ENROLLED); /* 8 */
		return ALLOW;
	} else if (to->port == DNS_PORT && cfg->flags & DNS_CAPTURE) {
		via->port = cfg->dns_port; /* 4 */
		counter = STAT_DNS;
	} else {
		via->port = cfg->outbound_port; /* 5 */
		counter = STAT_OUTBOUND;
	}
	if (addr_is_zero(&cfg->ztunnel[family])) {
		count(STAT_REFUSED);
		return REFUSE;
	}
	via->ip = cfg->ztunnel[family];
	count(counter);
	return ALLOW;
}

/*
 * What connect4 and connect6 do: fresh->asked is the destination, the rest is
 * zero. Returns the verdict; fresh->given is where to go instead, with a zero
 * address where the destination stays.
 */
static __always_inline int redirect(struct bpf_sock_addr *ctx, struct dialled *fresh)
{
	struct dialled *dialled;
	int verdict;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return ALLOW;
	verdict = connect_verdict(ctx, &fresh->asked, &fresh->given);
	if (addr_is_zero(&fresh->given.ip)) {
		/* The socket may have been redirected in an earlier life. */
		bpf_sk_storage_delete(&dialled_sockets, ctx->sk);
		return verdict;
	}
	dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!dialled)
		return REFUSE; /* no memory: the proxy could not know the way */
	*dialled = *fresh;     /* what was there from before is not replaced */
	return verdict;
}

#endif
