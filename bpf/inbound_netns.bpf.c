// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sk_lookup in an enrolled pod's netns, in-pod mode: a copy for each, made by
 * loader/inbound.c, whose constants are what it knows of the netns. All that it does
 * with them is to go on in inbound_lookup.
 */
#include "arriving.h"

const volatile struct inbound inbound SEC(".rodata.inbound") = {};

SEC("sk_lookup")
int inbound_netns(struct bpf_sk_lookup *ctx)
{
	struct inbound unheard;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	say(ctx, &inbound);
	bpf_tail_call(ctx, &inbound_program, 0);
	hear(ctx, &unheard); /* there is none, and the place is for others */
	return SK_DROP;
}
