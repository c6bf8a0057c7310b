/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is enrolled: rules and pods put together. */
#ifndef ONRAMP_ENROLMENT_H
#define ONRAMP_ENROLMENT_H

#include "maps.h"
#include "netns.h"

/* The longest prefix in mesh_rules or bypass_rules that has ip, or 0: none. */
static __always_inline __u32 rule_of(void *rules, const union addr *ip)
{
	struct prefix key = { .length = 128, .ip = *ip };
	__u32 *rule = bpf_map_lookup_elem(rules, &key);

	return rule ? *rule : 0;
}

/* For a pod's addresses: OUT if one of them is OUT, IN if one is IN, else 0. */
static __always_inline __u32 pod_rule(const union addr ip[FAMILIES])
{
	__u32 v4 = addr_is_zero(&ip[V4]) ? 0 : rule_of(&mesh_rules, &ip[V4]);
	__u32 v6 = addr_is_zero(&ip[V6]) ? 0 : rule_of(&mesh_rules, &ip[V6]);

	if (v4 == RULE_OUT || v6 == RULE_OUT)
		return RULE_OUT;
	return v4 == RULE_IN || v6 == RULE_IN ? RULE_IN : 0;
}

static __always_inline bool is_enrolled(const union addr ip[FAMILIES])
{
	return pod_rule(ip) == RULE_IN;
}

/* Reads the pod's netns; false: it is gone, or ip no longer its pod address. */
static __always_inline bool pod_read(const struct pod *pod, const union addr *ip,
				     struct netns_info *info)
{
	__u64 netns = pod->netns;

	netns_read((struct net *)pod->net, info);
	return info->netns == netns && addr_equal(&info->ip[addr_family(ip)], ip);
}

#endif
