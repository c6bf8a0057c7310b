// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/bpf_map_elem over pod_ips: the pods file, a line per pod address.
 *
 * Direct connections are counted with the first line, for all pods at once: in the
 * kernel's table of connections, where those are too that no process' files show
 * (sent to another process, say), and each is once, whoever shares it. A netns may
 * have a table of its own.
 */
#include "direct.h"

/*
 * Chains of the table: 524,288 at most, unless the kernel was told otherwise. In three
 * steps, for the verifier follows each turn of each loop.
 */
#define PARTS 128
#define ROWS 64	 /* of a part */
#define ROW 64	 /* chains */
#define CHAIN 64 /* sockets */

#define NO_COUNT (~0ULL) /* of the node's netns */

/* Global, as netns.h's walks are, and so are those that follow. */
WALK int socket_count(__u64 number, __u64 session)
{
	struct sock *sk = (void *)number;
	struct net *net = netns_of(&sk->__sk_common);
	__u64 *count;

	if (!is_opened(sk))
		return 0;
	count = noted(session, (__u64)net);
	if (!count) {
		note(session, (__u64)net, net_is_no_pod(current_settings(), net) ? NO_COUNT : 0);
		count = noted(session, (__u64)net);
	}
	if (count && *count != NO_COUNT && goes_direct(sk))
		++*count;
	return 0;
}

/*
 * Whether turn i is within; the caller's bound besides is the verifier's. Hidden from
 * clang, which may else count down from the lesser of the two, and 5.10 cannot follow.
 */
static __always_inline bool is_within(__u32 i, __u32 last)
{
	barrier_var(last);
	return i <= last;
}

/* A socket that closes just now may lead to another chain: a moment's error. */
WALK int chain_count(__u64 head, __u64 session)
{
	__u64 pos = (__u64)BPF_CORE_READ((struct inet_ehash_bucket *)head, chain.first);

	for (int i = 0; i < CHAIN && pos && !(pos & 1); i++) {
		socket_count(pos - offsetof(struct sock_common, skc_nulls_node), session);
		pos = (__u64)BPF_CORE_READ((struct hlist_nulls_node *)pos, next);
	}
	return 0;
}

WALK int row_count(__u64 heads, __u32 last, __u64 session)
{
	for (__u32 i = 0; i < ROW && is_within(i, last); i++)
		chain_count(heads + i * sizeof(struct inet_ehash_bucket), session);
	return 0;
}

WALK int part_count(__u64 heads, __u32 last, __u64 session)
{
	for (__u32 i = 0; i < ROWS && is_within(i, last / ROW); i++)
		row_count(heads + i * ROW * sizeof(struct inet_ehash_bucket), last - i * ROW,
			  session);
	return 0;
}

/* Not global: that would be one call too many below each other. */
static __always_inline void table_count(__u64 heads, __u32 last, __u64 session)
{
	__u32 part = ROWS * ROW;

	for (__u32 i = 0; i < PARTS && is_within(i, last / part); i++)
		part_count(heads + i * part * sizeof(struct inet_ehash_bucket), last - i * part,
			   session);
}

/* In the netns, which is a pod's. */
static __always_inline __u64 direct_count(struct net *net, __u64 session)
{
	struct inet_hashinfo *table = connection_table(net);
	__u64 *count;

	if (!noted(session, (__u64)table)) {
		note(session, (__u64)table, 0);
		table_count((__u64)BPF_CORE_READ(table, ehash), BPF_CORE_READ(table, ehash_mask),
			    session);
	}
	count = noted(session, (__u64)net);
	return count ? *count : 0;
}

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
	__u64 direct;

	if (begins(ctx->meta->session_id))
		BPF_SEQ_PRINTF(seq, "%s\n", "MESH    NETNS  CGROUPS  DIRECT  ADDRESS");
	if (!key || !pod)
		return 0;
	ip = *key;
	if (!pod_read(pod, &ip, &info))
		return 0; /* on its way out */
	cfg = current_settings();
	direct = cfg && is_ztunnels_pod(&info) ?
			 0 :
			 direct_count((struct net *)pod->net, ctx->meta->session_id);
	rule = pod_rule(info.ip);
	if (cfg && in_pod_mode(cfg)) /* a listener enrols, which cannot be sought from here */
		mesh = rule == RULE_OUT ? "out" : "?  ";
	else
		mesh = rule == RULE_IN ? "in " : "out";
	BPF_SEQ_PRINTF(seq, "%s", mesh);
	BPF_SEQ_PRINTF(seq, "%11u%9u%8llu  ", info.inum, pod->cgroups, direct);
	if (addr_is_v4(&ip))
		BPF_SEQ_PRINTF(seq, "%pI4\n", &ip.word[3]);
	else
		BPF_SEQ_PRINTF(seq, "%pI6c\n", &ip);
	return 0;
}
