// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The pods file: a line per pod address; where there is none, nothing. Two programs write
 * the same. pods is for kernels that have bpf_for_each_map_elem (5.13). Some of these refuse
 * with EPERM the iterators that older ones have over a map's elements, as pods_by_element's
 * is. The loader takes one of them; so they are in no object that is loaded as a whole.
 */
#include "verdict.h"

static __always_inline void head_print(struct seq_file *seq)
{
	BPF_SEQ_PRINTF(seq, "MESH    NETNS  CGROUPS  ADDRESS\n");
}

static __always_inline void pod_print(struct seq_file *seq, const union addr *at,
				      const struct pod_ip *pod)
{
	struct netns_info info = {};
	union addr ip = *at;

	if (!claim_stands(&pod->holder, &ip))
		return; /* on its way out */
	netns_read((struct net *)pod->holder.net, &info);
	BPF_SEQ_PRINTF(seq, "%s", is_in(pod_word(&info)) ? "in " : "out");
	BPF_SEQ_PRINTF(seq, "%11u%9u  ", info.inum, pod->cgroups);
	if (addr_is_v4(&ip))
		BPF_SEQ_PRINTF(seq, "%pI4\n", &ip.word[3]);
	else
		BPF_SEQ_PRINTF(seq, "%pI6c\n", &ip);
}

SEC("iter/bpf_map_elem")
int pods_by_element(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	union addr *ip = ctx->key;
	struct pod_ip *pod = ctx->value;

	if (!ip || !pod)
		return 0;
	if (!ctx->meta->seq_num)
		head_print(seq);
	pod_print(seq, ip, pod);
	return 0;
}

/*
 * What is printed for one map may have 32 KiB, or the reader gets E2BIG. So each of the
 * first PARTS maps, of which onramp alone has more, counts off a part of the addresses, by
 * their hash: 10,000 have room. An address is in its part whatever comes and goes meanwhile.
 */
#define PARTS 24

struct part {
	struct seq_file *seq;
	__u64 number;
	bool is_headed;
};

static long pod_print_in(struct bpf_map *map, union addr *ip, struct pod_ip *pod, struct part *part)
{
	__u32 hash = (ip->word[0] ^ ip->word[1] ^ ip->word[2] ^ ip->word[3]) * 0x9e3779b1;

	if (!part->is_headed)
		head_print(part->seq);
	part->is_headed = true;
	if ((__u64)hash * PARTS >> 32 == part->number)
		pod_print(part->seq, ip, pod);
	return 0;
}

SEC("iter/bpf_map")
int pods(struct bpf_iter__bpf_map *ctx)
{
	struct part part = {
		.seq = ctx->meta->seq,
		.number = ctx->meta->seq_num,
		.is_headed = ctx->meta->seq_num,
	};

	if (part.number < PARTS)
		bpf_for_each_map_elem(&pod_ips, pod_print_in, &part, 0);
	return 0;
}
