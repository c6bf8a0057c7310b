// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* iter/bpf_map_elem over pod_ips: the pods file, a line per pod address. */
#include "enrolment.h"

SEC("iter/bpf_map_elem")
int pods(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	union addr *key = ctx->key, ip;
	struct pod *pod = ctx->value;
	struct netns_info info = {};
	const struct settings *cfg;
	const char *mesh;
	enum rule rule;

	if (!ctx->meta->seq_num)
		BPF_SEQ_PRINTF(seq, "%s\n", "MESH    NETNS  CGROUPS  ADDRESS");
	if (!key || !pod)
		return 0;
	ip = *key;
	if (!pod_read(pod, &ip, &info))
		return 0; /* on its way out */
	cfg = current_settings();
	rule = pod_rule(info.ip);
	if (cfg && in_pod_mode(cfg)) /* a listener enrols, which cannot be sought from here */
		mesh = rule == RULE_OUT ? "out" : "?  ";
	else
		mesh = rule == RULE_IN ? "in " : "out";
	BPF_SEQ_PRINTF(seq, "%s", mesh);
	BPF_SEQ_PRINTF(seq, "%11u%9u  ", info.inum, pod->cgroups);
	if (addr_is_v4(&ip))
		BPF_SEQ_PRINTF(seq, "%pI4\n", &ip.word[3]);
	else
		BPF_SEQ_PRINTF(seq, "%pI6c\n", &ip);
	return 0;
}
