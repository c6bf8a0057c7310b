/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * In-pod mode: where ztunnel listens, and which connections are the kubelet's; for
 * what arrives at pods (inbound.bpf.c).
 */
#ifndef ONRAMP_LISTENERS_H
#define ONRAMP_LISTENERS_H

#include "addr.h"
#include "maps.h"

/*
 * struct listener_key -> the socket of a ztunnel's that listens there. Written by
 * sockops and iter_listeners; the kernel takes out what is closed. Full: what arrives
 * there is refused, and stat listeners_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 32768);
	__type(key, struct listener_key);
	__type(value, __u64);
} listeners SEC(".maps") __weak;

/*
 * Place of a ztunnel, as in `ztunnels` -> start of its newest process that listens, ns
 * since boot. Written by sockops, iter_listeners and onramp-zds, which knows of one that
 * dials when it began; from /proc, so by the clock that runs on through a suspend.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ZTUNNELS);
	__type(key, __u32);
	__type(value, __u64);
} ztunnel_starts SEC(".maps") __weak;

/*
 * struct probe_key -> source address: a connection of the kubelet's, for as long as its
 * socket lives. Written by sockops. Full: a probe is captured, and stat probes_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct probe_key);
	__type(value, union addr);
} probes SEC(".maps") __weak;

/* Which of ztunnel's listeners that are led to listens on a port; LISTENERS: none. */
static __always_inline enum listener listener_of(const struct settings *cfg, __u32 port)
{
	if (port == cfg->port[OUTBOUND])
		return OUTBOUND;
	if (port == cfg->port[INBOUND])
		return INBOUND;
	return port == cfg->port[HBONE] ? HBONE : LISTENERS;
}

static __always_inline __u64 start_of(__u32 place)
{
	__u64 *start = bpf_map_lookup_elem(&ztunnel_starts, &place);

	return start ? *start : 0;
}

/* The place of the ztunnel that is the newest of those that began before; ZTUNNELS: none. */
static __always_inline __u32 newest_place(__u64 before)
{
	__u32 newest = ZTUNNELS;
	__u64 latest = 0, start;

	for (__u32 place = 0; place < ZTUNNELS; place++) {
		start = start_of(place);
		if (start > latest && start < before) {
			latest = start;
			newest = place;
		}
	}
	return newest;
}

/* The same, followed once by the verifier. */
WALK __u32 next_place(__u64 before)
{
	return newest_place(before);
}

/* Leads to the listener there. False: there is none, or on another port (0: whichever). */
static __always_inline bool lead(struct bpf_sk_lookup *ctx, const struct listener_key *key,
				 __u32 port)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, key);
	long err = -1;

	if (!sk)
		return false;
	if (!port || sk->src_port == port)
		err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(sk);
	return !err;
}

#endif
