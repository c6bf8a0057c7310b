// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/bpf_map_elem over pod_ips: the pods file, a line per pod address; where there
 * is none, nothing.
 */
#include "verdict.h"

SEC("iter/bpf_map_elem")
int pods(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	union addr *key = ctx->key, ip;
	struct netns_info info = {};
	struct pod_ip *pod = ctx->value;

	if (!key || !pod)
		return 0;
	if (!ctx->meta->seq_num)
		BPF_SEQ_PRINTF(seq, "MESH    NETNS  CGROUPS  ADDRESS\n");
	ip = *key;
	if (!claim_stands(&pod->holder, &ip))
		return 0; /* on its way out */
	netns_read((struct net *)pod->holder.net, &info);
	BPF_SEQ_PRINTF(seq, "%s", is_in(pod_word(&info)) ? "in " : "out");
	BPF_SEQ_PRINTF(seq, "%11u%9u  ", info.inum, pod->cgroups);
	if (addr_is_v4(&ip))
		BPF_SEQ_PRINTF(seq, "%pI4\n", &ip.word[3]);
	else
		BPF_SEQ_PRINTF(seq, "%pI6c\n", &ip);
	return 0;
}
