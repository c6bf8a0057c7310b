/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How inbound_netns, which each pod's netns has one of, goes on in inbound_lookup, which
 * all have in common; and says what netns it is in, which the kernel tells neither.
 */
#ifndef ONRAMP_ARRIVING_H
#define ONRAMP_ARRIVING_H

#include "kernel.h"
#include "onramp.h"

/* 0 -> inbound_lookup. Written by the loader. Empty: what arrives is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} inbound_program SEC(".maps") __weak;

/*
 * 0 -> struct arriving, on this CPU. A lookup of a task's (sock_diag has such; with
 * PREEMPT_RT, any) may be interrupted by one of a packet's, which then writes over what
 * was said. So it is said for whom it is, by the address of the context, which no other
 * has for as long as the lookup runs: that first, and asked last.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arriving);
} arriving SEC(".maps") __weak;

static __always_inline volatile struct arriving *arriving_here(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&arriving, &key);
}

static __always_inline void say(const struct bpf_sk_lookup *ctx, __u64 net, __u32 bypass,
				__u32 beside)
{
	volatile struct arriving *here = arriving_here();

	if (!here)
		return;
	here->ctx = (__u64)ctx;
	here->at.net = net;
	here->at.bypass = bypass;
	here->at.beside = beside;
}

/* False: it was said to another, or long ago. */
static __always_inline bool hear(const struct bpf_sk_lookup *ctx, struct inbound *at)
{
	volatile struct arriving *here = arriving_here();

	if (!here)
		return false;
	at->net = here->at.net;
	at->bypass = here->at.bypass;
	at->beside = here->at.beside;
	if (here->ctx != (__u64)ctx)
		return false;
	here->ctx = 0;
	return true;
}

#endif
