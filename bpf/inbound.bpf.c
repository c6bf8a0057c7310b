// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sk_lookup in an enrolled pod's netns, in-pod mode: leads what arrives to ztunnel,
 * by the contract's second table ("What arrives"), whose rows are numbered here as
 * there. Runs for each new TCP connection to the pod, its own ones included, and again
 * for a SYN that is sent again.
 *
 * Comes from inbound_netns, which says what netns it is in.
 */
#include "arriving.h"
#include "in_pod.h"
#include "listeners.h"
#include "verdict.h"

/* Where istio-cni has the kubelet's probes come from, while it is being taken over. */
static __always_inline bool is_istio_cnis(const union addr *ip)
{
	if (addr_is_v4(ip))
		return ip->word[3] == bpf_htonl(0xa9fe077f); /* 169.254.7.127 */
	return ip->word[0] == bpf_htonl(0xfd169254) && ip->word[1] == bpf_htonl(0x71271337) &&
	       (ip->word[2] & ip->word[3]) == 0xffffffff;
}

/* Row 4: one of the kubelet's own connections, beside istio-cni by its address for them. */
static __always_inline bool is_probe(const union addr *from, __u32 from_port, const union addr *to,
				     __u32 port, bool beside)
{
	struct probe_key key = { .to = *to, .from_port = from_port, .port = port };
	const union addr *source = bpf_map_lookup_elem(&probes, &key);

	return source && (addr_equal(source, from) || (beside && is_istio_cnis(from)));
}

/* Row 0, of what comes from inside: where redirected connections go. */
static __always_inline bool is_outbound(const union addr *to)
{
	if (!addr_is_loopback(to))
		return true; /* an address of this netns, or it would not come here */
	return !addr_is_v4(to) || ip_is_numbered(to->word[3]);
}

/* Leads to the listener of the newest ztunnel that has one there. False: there is none. */
static __always_inline bool lead_to(struct bpf_sk_lookup *ctx, __u64 net, enum listener listener)
{
	struct listener_key key = { .net = net, .listener = listener };
	__u64 before = ~0ULL;

	for (int i = 0; i < ZTUNNELS; i++) {
		key.place = next_place(before);
		if (key.place >= ZTUNNELS)
			break;
		if (lead(ctx, &key, 0))
			return true;
		before = start_of(key.place);
	}
	return false;
}

/* An operator's word, or that the pod is leaving. */
static __always_inline bool is_out(const struct netns_info *now)
{
	return pod_word(now) & (POD_OUT | POD_ZDS_OUT);
}

#define PASSES STATS /* and counts nothing */

/* The table: what becomes of a connection, as the counter of it. */
static __always_inline __u32 arrival_of(struct bpf_sk_lookup *ctx, const struct settings *cfg,
					const struct inbound *at)
{
	union addr from = { .word = { ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
				      ctx->remote_ip6[3] } };
	union addr to = { .word = { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2],
				    ctx->local_ip6[3] } };
	enum listener listener = listener_of(cfg, ctx->local_port);
	struct netns_info now = {};
	bool inside;

	if (ctx->family == AF_INET) {
		from = addr_from_v4(ctx->remote_ip4);
		to = addr_from_v4(ctx->local_ip4);
	}
	in_memory(from);
	in_memory(to);
	inside = addr_is_loopback(&from) || addr_equal(&from, &to);
	if (!inside) {
		netns_know((struct net *)at->net, &now);
		inside = addr_equal(&from, &now.ip[addr_family(&from)]) ||
			 (netns_may_have(&now, &from) && netns_has((struct net *)at->net, &from));
	}
	if (inside && listener == OUTBOUND && is_outbound(&to))
		return ARRIVED_OUTBOUND; /* 0 */
	if (inside && listener != HBONE) /* else 3: of two ztunnels the newest has it */
		return PASSES;		 /* 2 */
	/* Istio's rules send to 15006 what was for the app. ztunnel refuses what dials it. */
	if (!inside &&
	    (addr_is_loopback(&to) || listener == OUTBOUND || (listener == INBOUND && !at->beside)))
		return ARRIVED_REFUSED; /* 1 */
	if (listener == HBONE)
		return ARRIVED_HBONE; /* 3 */
	if (is_probe(&from, bpf_ntohs(ctx->remote_port), &to, ctx->local_port, at->beside))
		return ARRIVED_PROBE; /* 4 */
	if (at->bypass || is_out(&now))
		return ARRIVED_BYPASSED; /* 5 */
	return ARRIVED_INBOUND;		 /* 6 */
}

SEC("sk_lookup")
int inbound_lookup(struct bpf_sk_lookup *ctx)
{
	const struct settings *cfg = current_settings();
	struct inbound at = {};
	__u32 arrival;

	/* In node mode a pod's program may still be there, or come late. */
	if (!hear(ctx, &at))
		arrival = ARRIVED_REFUSED;
	else if (!cfg || cfg->mode != IN_POD_MODE)
		return SK_PASS;
	else
		arrival = arrival_of(ctx, cfg, &at);
	if (arrival == PASSES)
		return SK_PASS;
	if (arrival <= ARRIVED_HBONE && !lead_to(ctx, at.net, arrival - ARRIVED_OUTBOUND))
		arrival = ARRIVED_REFUSED; /* never past policy */
	count(arrival);
	return arrival == ARRIVED_REFUSED ? SK_DROP : SK_PASS;
}
