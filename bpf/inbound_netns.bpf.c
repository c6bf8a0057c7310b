// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sk_lookup in an enrolled pod's netns, in-pod mode: a copy for each, made by
 * loader/inbound.c, whose constants are what it knows of the netns. What connect() has
 * redirected it leads to ztunnel itself, by row 0 of the table, for connect() waits for
 * it. With all else it goes on in inbound_lookup.
 */
#include "arriving.h"
#include "listeners.h"

const volatile struct inbound inbound SEC(".rodata.inbound") = {};

/* From loopback to a number, or where what has none goes from there: ::1. */
static __always_inline bool is_redirected(struct bpf_sk_lookup *ctx)
{
	if (ctx->family == AF_INET)
		return bpf_ntohl(ctx->remote_ip4) >> 24 == 127 && ip_is_numbered(ctx->local_ip4);
	return !(ctx->remote_ip6[0] | ctx->remote_ip6[1] | ctx->remote_ip6[2] |
		 (ctx->remote_ip6[3] ^ bpf_htonl(1)));
}

/*
 * Row 0, for the newest ztunnel, which listens on what was dialled: without a look at the
 * settings, for in node mode there is no such connection. False: the table is to decide.
 */
static __always_inline bool is_led(struct bpf_sk_lookup *ctx)
{
	struct listener_key key = {
		.net = inbound.net,
		.listener = OUTBOUND,
		.place = newest_place(~0ULL),
	};

	return key.place < ZTUNNELS && lead(ctx, &key, ctx->local_port);
}

SEC("sk_lookup")
int inbound_netns(struct bpf_sk_lookup *ctx)
{
	struct inbound unheard;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	if (is_redirected(ctx) && is_led(ctx)) {
		count(ARRIVED_OUTBOUND);
		return SK_PASS;
	}
	say(ctx, &inbound);
	bpf_tail_call(ctx, &inbound_program, 0);
	hear(ctx, &unheard); /* there is none, and the place is for others */
	return SK_DROP;
}
