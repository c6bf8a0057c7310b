/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is enrolled: rules and pods put together. */
#ifndef ONRAMP_ENROLMENT_H
#define ONRAMP_ENROLMENT_H

#include "maps.h"
#include "netns.h"

/*
 * The rule of the longest prefix in mesh_rules, or else in bypass_rules, that has
 * the address of these two halves; 0: none. Global, as netns.h's walks are: the
 * key would else take room in the caller's stack, once for each call.
 */
WALK int rule_at(__u64 ip0, __u64 ip1, bool bypass)
{
	struct prefix key = { .length = 128, .ip.half = { ip0, ip1 } };
	__u32 *rule = bypass ? bpf_map_lookup_elem(&bypass_rules, &key) :
			       bpf_map_lookup_elem(&mesh_rules, &key);

	return rule ? *rule : 0;
}

static __always_inline enum rule mesh_rule(const union addr *ip)
{
	return addr_is_zero(ip) ? 0 : rule_at(ip->half[0], ip->half[1], false);
}

static __always_inline bool is_bypassed(const union addr *ip)
{
	return rule_at(ip->half[0], ip->half[1], true) == RULE_BYPASS;
}

/* For a pod's addresses: OUT if one of them is OUT, IN if one is IN, else 0. */
static __always_inline enum rule pod_rule(const union addr ip[FAMILIES])
{
	enum rule v4 = mesh_rule(&ip[V4]), v6 = mesh_rule(&ip[V6]);

	if (v4 == RULE_OUT || v6 == RULE_OUT)
		return RULE_OUT;
	return v4 == RULE_IN || v6 == RULE_IN ? RULE_IN : 0;
}

static __always_inline bool is_enrolled(const union addr ip[FAMILIES])
{
	return pod_rule(ip) == RULE_IN;
}

/* ztunnel listens on loopback inside the pods' netns. */
static __always_inline bool in_pod_mode(const struct settings *cfg)
{
	return addr_is_loopback(&cfg->ztunnel[V4]) || addr_is_loopback(&cfg->ztunnel[V6]);
}

/* Whether it is the pod with ztunnel's address. */
static __always_inline bool is_ztunnels_pod(const struct settings *cfg,
					    const struct netns_info *info)
{
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

/* Reads the pod's netns; false: it is gone, or ip no longer its pod address. */
static __always_inline bool pod_read(const struct pod *pod, const union addr *ip,
				     struct netns_info *info)
{
	__u64 netns = pod->netns;

	netns_read_ips((struct net *)pod->net, info);
	return info->netns == netns && addr_equal(&info->ip[addr_family(ip)], ip);
}

#endif
