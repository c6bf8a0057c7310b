/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The second room: what becomes of a connect(), by the contract's table ("What is
 * dialled"), whose lines are numbered here as there. Changes nothing, and knows
 * nothing of how a destination is carried.
 */
#ifndef ONRAMP_VERDICT_H
#define ONRAMP_VERDICT_H

#include "pods.h"

#define DNS_PORT 53

/*
 * What an entry that a look-up by this key has found says of its address; 0: nothing. The
 * maps are looked up one by one: of a choice of two the kernel knows neither, and calls by
 * a pointer.
 */
static __always_inline int rule_of(const __u32 *found, const struct prefix *key)
{
	union addr ip = key->ip;

	if (!found || (*found & RULE_V6_ONLY && addr_is_v4(&ip)))
		return 0;
	return *found & ~RULE_V6_ONLY;
}

/* The rule of the longest prefix in mesh_rules that has the address of these two halves. */
WALK int rule_at(__u64 ip0, __u64 ip1)
{
	struct prefix key = { .length = 128, .ip.half = { ip0, ip1 } };

	return rule_of(bpf_map_lookup_elem(&mesh_rules, &key), &key);
}

WALK int is_bypassed_at(__u64 ip0, __u64 ip1)
{
	struct prefix key = { .length = 128, .ip.half = { ip0, ip1 } };

	return rule_of(bpf_map_lookup_elem(&bypass_rules, &key), &key) == RULE_BYPASS;
}

static __always_inline bool is_bypassed(const union addr *ip)
{
	return is_bypassed_at(ip->half[0], ip->half[1]);
}

/* What a rule of mesh_rules says, as mesh_pods would. */
static __always_inline __u32 word_of(int rule)
{
	if (rule == RULE_IN)
		return POD_IN;
	return rule == RULE_OUT ? POD_OUT : 0;
}

static __always_inline bool is_in(__u32 word)
{
	return !(word & (POD_OUT | POD_ZDS_OUT)) && word & (POD_IN | POD_ZDS_IN);
}

static __always_inline bool is_unruled(__u32 word)
{
	return !(word & (POD_IN | POD_OUT | POD_ZDS_IN | POD_ZDS_OUT)) && word & POD_HAS_UID;
}

/* What is said of a pod's addresses: IPv4 by the half that counts, IPv6 in two. */
static __always_inline __u32 address_rules(__u64 v4, __u64 v6_0, __u64 v6_1)
{
	__u32 word = 0;

	if (v4)
		word |= word_of(rule_at(0, v4));
	if (v6_0 | v6_1)
		word |= word_of(rule_at(v6_0, v6_1));
	return word;
}

/* All that is said of a netns' pod, by its UID and by its addresses. */
static __always_inline __u32 pod_word(const struct netns_info *pod)
{
	return netns_word(pod->netns) |
	       address_rules(pod->ip[V4].half[1], pod->ip[V6].half[0], pod->ip[V6].half[1]);
}

/* The same for a connect(), of its netns. no_uid: see word_here(). */
WALK __u32 rules_here(__u64 netns, __u32 no_uid, __u64 v4, __u64 v6_0, __u64 v6_1)
{
	return word_here(netns, no_uid) | address_rules(v4, v6_0, v6_1);
}

/* Whether DNS is captured, as settings have it and then the pod. */
static __always_inline bool captures_dns(const struct settings *cfg, __u32 word)
{
	if (word & (POD_DNS | POD_NO_DNS))
		return word & POD_DNS;
	return cfg->flags & DNS_CAPTURE;
}

WALK int is_loaders_netns(__u64 netns)
{
	const struct settings *cfg = current_settings();

	for (int i = 0; cfg && i < ZTUNNELS; i++)
		if (cfg->netns[i] && cfg->netns[i] == netns)
			return true;
	return false;
}

/* A ztunnel's netns: one that a loader ran in, in node mode. The first is the newest. */
static __always_inline bool netns_is_ztunnels(const struct settings *cfg, __u64 netns)
{
	return cfg->netns[0] && is_loaders_netns(netns);
}

/* Whether ip is an address of the context's socket's netns, which is now. */
static __always_inline bool is_own(const void *ctx, const union addr *ip,
				   const struct netns_info *now)
{
	if (addr_equal(ip, &now->ip[addr_family(ip)]))
		return true;
	return netns_may_have(now, ip) && netns_has(socket_net(ctx), ip);
}

/*
 * Whether the netns at `net`, of that id (0: none), has the address of these halves as its
 * pod's, and is enrolled.
 */
WALK int is_enrolled_there(__u64 net, __u64 netns, __u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct netns_info now = {};

	if (!netns)
		return false;
	netns_know((struct net *)net, &now);
	return now.netns == netns && addr_equal(&now.ip[addr_family(&ip)], &ip) &&
	       is_in(pod_word(&now));
}

static __always_inline bool claim_is_ztunnels(const struct settings *cfg, const struct claim *claim)
{
	return claim->is_ztunnels || netns_is_ztunnels(cfg, claim->netns);
}

/* The same, and it holds the address still: a ztunnel that has gone leaves it to the next pod. */
static __always_inline bool is_held_by_ztunnel(const struct settings *cfg,
					       const struct claim *claim, const union addr *ip)
{
	return claim_is_ztunnels(cfg, claim) && claim_stands(claim, ip);
}

/* Whether an address, in two halves, is that of a ztunnel: this one, the next, or the last. */
WALK int is_ztunnels_own(__u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } };
	const struct pod_ip *pod = bpf_map_lookup_elem(&pod_ips, &ip);
	const struct settings *cfg = current_settings();
	enum family family = addr_family(&ip);

	if (!pod || !cfg)
		return false;
	if (addr_equal(&ip, &cfg->ztunnel[family]))
		return true;
	if ((cfg->next_cgroup || cfg->next_netns) && addr_equal(&ip, &cfg->next[family]))
		return true;
	return is_held_by_ztunnel(cfg, &pod->holder, &ip) ||
	       is_held_by_ztunnel(cfg, &pod->other, &ip);
}

/* Whether an address, in two halves, is that of a local enrolled pod, and not ztunnel's. */
WALK int is_local_enrolled_pod(__u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } };
	const struct pod_ip *pod = bpf_map_lookup_elem(&pod_ips, &ip);

	if (!pod)
		return false;
	if (!is_enrolled_there(pod->holder.net, pod->holder.netns, ip0, ip1) &&
	    !is_enrolled_there(pod->other.net, pod->other.netns, ip0, ip1))
		return false;
	return !is_ztunnels_own(ip0, ip1); /* last: most that are dialled are not enrolled */
}

/*
 * Node mode: whether ztunnel has an address of the family, and no other pod has come by
 * it since: one would get all that is meant for ztunnel.
 */
WALK int ztunnel_has(__u32 family)
{
	const struct settings *cfg = current_settings();
	const struct pod_ip *pod;
	const union addr *ip;

	if (!cfg)
		return false;
	ip = &cfg->ztunnel[family & 1];
	if (addr_is_zero(ip))
		return false;
	if (!(cfg->flags & ZTUNNEL_KNOWN))
		return true;
	pod = bpf_map_lookup_elem(&pod_ips, ip);
	return !pod || claim_is_ztunnels(cfg, &pod->holder) || claim_is_ztunnels(cfg, &pod->other);
}

/* Node mode: to that listener of ztunnel's, or what becomes of it where that cannot be. */
static __always_inline enum verdict through_ztunnel(enum family family, enum verdict listener)
{
	if (ztunnel_has(family))
		return listener;
	return ztunnel_has(!family) ? REFUSE_UNREACHABLE : REFUSE_NO_ZTUNNEL;
}

/* Rows 3, 5, 8 and 9 of node programs: their netns has many devices to ask, so 3 is last. */
static __always_inline enum verdict node_verdict(const void *ctx, const struct settings *cfg,
						 const struct endpoint *to)
{
	if (is_bypassed(&to->ip))
		return PASS_BYPASSED; /* 5 */
	if (cfg->mode != NODE_MODE || cfg->flags & NO_HOST_CAPTURE)
		return PASS_NODE; /* 9 */
	if (!is_local_enrolled_pod(to->ip.half[0], to->ip.half[1]) ||
	    cgroup_has((__u64)current_cgroup(), 0, SOUGHT_KUBELET, 0))
		return PASS_NODE; /* 9 */
	if (node_has((__u64)socket_net(ctx), to->ip.half[0], to->ip.half[1]))
		return PASS_LOCAL;				  /* 3 */
	return through_ztunnel(addr_family(&to->ip), TO_INBOUND); /* 8 */
}

/* Row 2. */
static __always_inline enum verdict ztunnel_verdict(const void *ctx, const struct settings *cfg,
						    const struct endpoint *to)
{
	if (to->port == cfg->port[OUTBOUND] &&
	    (addr_stays_here(&to->ip) || netns_may_have_it(socket_net(ctx), &to->ip)))
		return REFUSE_ITSELF;
	if (cfg->mode == NODE_MODE && to->port == cfg->port[HBONE] &&
	    is_local_enrolled_pod(to->ip.half[0], to->ip.half[1]))
		return TO_HBONE;
	return PASS_ZTUNNEL;
}

/* Rows 3 to 9 of pods. query: see verdict_of(). */
static __always_inline enum verdict pod_verdict(const void *ctx, const struct settings *cfg,
						const struct netns_info *now,
						const struct endpoint *to, bool query)
{
	enum family family = addr_family(&to->ip);
	__u32 word;
	bool dns;

	if (is_own(ctx, &to->ip, now))
		return PASS_LOCAL; /* 3 */
	word = rules_here(now->netns, now->flags & NETNS_NO_UID, now->ip[V4].half[1],
			  now->ip[V6].half[0], now->ip[V6].half[1]);
	if (!is_in(word)) {
		if (query || is_bypassed(&to->ip))
			return PASS_BYPASSED; /* 5 */
		return cfg->flags & STRICT && is_unruled(word) ? REFUSE_UNRULED :
								 PASS_NOT_ENROLLED; /* 7, 9 */
	}
	dns = to->port == DNS_PORT && captures_dns(cfg, word);
	if (!dns && (query || is_bypassed(&to->ip)))
		return PASS_BYPASSED; /* 5 */
	if (addr_is_zero(&now->ip[family]))
		return REFUSE_UNREACHABLE;
	if (cfg->mode == NODE_MODE && addr_equal(&now->ip[family], &cfg->ztunnel[family]))
		return REFUSE_ITSELF; /* it holds ztunnel's address, and is not known as ztunnel */
	if (cfg->mode == NODE_MODE)
		return through_ztunnel(family, dns ? TO_DNS : TO_OUTBOUND);
	return dns ? TO_DNS : TO_OUTBOUND; /* 4, 6 */
}

/*
 * The table, for a connection of the context's socket, which is in the netns `now`, to
 * `to`. query: a DNS query by UDP, of which row 4 alone speaks.
 */
static __always_inline enum verdict verdict_of(const void *ctx, const struct settings *cfg,
					       const struct netns_info *now,
					       const struct endpoint *to, bool query)
{
	if (netns_is_ztunnels(cfg, now->netns))
		return ztunnel_verdict(ctx, cfg, to); /* 2 */
	if (addr_stays_here(&to->ip))
		return PASS_LOCAL; /* 3 */
	if (netns_is_node(cfg, now))
		return query ? PASS_NODE : node_verdict(ctx, cfg, to);
	return pod_verdict(ctx, cfg, now, to, query);
}

#endif
