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

struct arriving {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct said said[SAID];
};

/*
 * CPU number modulo STATS_CPUS -> struct arriving: what inbound_netns says there, for
 * inbound_lookup to hear. A lookup of a task's (sock_diag has such; with PREEMPT_RT all
 * may be) is interrupted by another's on its CPU, which then has a place of its own. It
 * is said for whom it is, by the address of the lookup's context, which no other has for
 * as long as it runs. Full: refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STATS_CPUS);
	__type(key, __u32);
	__type(value, struct arriving);
} arriving SEC(".maps") __weak;

static __always_inline struct arriving *arriving_here(void)
{
	__u32 cpu = bpf_get_smp_processor_id() % STATS_CPUS;

	return bpf_map_lookup_elem(&arriving, &cpu);
}

static __always_inline void say(const struct bpf_sk_lookup *ctx, const volatile struct inbound *at)
{
	struct arriving *here = arriving_here();
	bool is_said = false;

	if (!here)
		return;
	bpf_spin_lock(&here->lock);
	for (int i = 0; i < SAID; i++) {
		if (is_said || here->said[i].ctx)
			continue;
		here->said[i].ctx = (__u64)ctx;
		here->said[i].at.net = at->net;
		here->said[i].at.bypass = at->bypass;
		here->said[i].at.beside = at->beside;
		is_said = true;
	}
	bpf_spin_unlock(&here->lock);
}

/* Once: it is forgotten then. False: it was not said. */
static __always_inline bool hear(const struct bpf_sk_lookup *ctx, struct inbound *at)
{
	struct arriving *here = arriving_here();
	bool is_heard = false;

	if (!here)
		return false;
	bpf_spin_lock(&here->lock);
	for (int i = 0; i < SAID; i++) {
		if (is_heard || here->said[i].ctx != (__u64)ctx)
			continue;
		*at = here->said[i].at;
		here->said[i].ctx = 0;
		is_heard = true;
	}
	bpf_spin_unlock(&here->lock);
	return is_heard;
}

#endif
