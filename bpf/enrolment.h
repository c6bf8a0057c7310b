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

static __always_inline bool is_bypassed(const union addr *ip)
{
	return rule_at(ip->half[0], ip->half[1], true) == RULE_BYPASS;
}

/*
 * Of a pod's addresses, IPv4 by the half that counts and IPv6 in two: OUT if one of
 * them is OUT, IN if one is IN, else 0. Global, as netns.h's walks are.
 */
WALK int pod_rule_of(__u64 v4, __u64 v6_0, __u64 v6_1)
{
	int rule4 = v4 ? rule_at(0, v4, false) : 0, rule6 = 0;

	if (rule4 != RULE_OUT && v6_0 | v6_1)
		rule6 = rule_at(v6_0, v6_1, false);
	if (rule4 == RULE_OUT || rule6 == RULE_OUT)
		return RULE_OUT;
	return rule4 == RULE_IN || rule6 == RULE_IN ? RULE_IN : 0;
}

static __always_inline enum rule pod_rule(const union addr ip[FAMILIES])
{
	return pod_rule_of(ip[V4].half[1], ip[V6].half[0], ip[V6].half[1]);
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

/*
 * Whether the netns of that id, with these addresses as in pod_rule_of(), is that
 * of the pod with ztunnel's address. Global, as netns.h's walks are.
 */
WALK int is_ztunnels_pod_of(__u64 netns, __u64 v4, __u64 v6_0, __u64 v6_1)
{
	const struct settings *cfg = current_settings();
	const struct pod *pod;

	if (!cfg)
		return false;
	/* A pod may put any address on its device: the first one wins. */
	if (v4 && cfg->ztunnel[V4].half[1] == v4) {
		pod = bpf_map_lookup_elem(&pod_ips, &cfg->ztunnel[V4]);
		if (pod && pod->netns == netns)
			return true;
	}
	if (!(v6_0 | v6_1) || cfg->ztunnel[V6].half[0] != v6_0 || cfg->ztunnel[V6].half[1] != v6_1)
		return false;
	pod = bpf_map_lookup_elem(&pod_ips, &cfg->ztunnel[V6]);
	return pod && pod->netns == netns;
}

static __always_inline bool is_ztunnels_pod(const struct netns_info *info)
{
	return is_ztunnels_pod_of(info->netns, info->ip[V4].half[1], info->ip[V6].half[0],
				  info->ip[V6].half[1]);
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
