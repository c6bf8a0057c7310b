// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/bpf_map: prints two numbers of the reader's netns: its id, by which settings know
 * a ztunnel's that the loader runs in, and the address of its struct net, by which what
 * arrives there is led to ztunnel. Maps are only what this kind of iterator counts off.
 */
#include "netns.h"

SEC("iter/bpf_map")
int iter_netns(struct bpf_iter__bpf_map *ctx)
{
	struct task_struct *reader = (struct task_struct *)bpf_get_current_task();
	struct net *net = BPF_CORE_READ(reader, nsproxy, net_ns);

	if (!ctx->meta->seq_num)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%llu %llu\n", netns_id(net), (__u64)net);
	return 0;
}
