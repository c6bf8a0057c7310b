// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/tcp: the direct file. To a reader in an enrolled pod's netns it is that
 * pod's direct connections as an expression for ss: `ss -tn -F` lists them, and
 * `ss -tK -F` resets them. ss finds each again by its addresses and ports, and
 * closes it by its cookie, so that a connection that took its place is safe.
 *
 * An expression that is empty would stand for all, so that it begins with what no
 * connection is. It ends before ss has no room for it: 16 bits for the length of
 * what it makes of it, 60 bytes a connection.
 */
#include "direct.h"

#define CONNECTIONS 1000

#define ZTUNNEL_LISTENS 1 /* for note(): no kernel address */

/* Through memory, for the verifier lets no pointer be passed as a number. */
static __always_inline struct sock *socket_at(struct sock_common *sk)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &sk);
	return (struct sock *)number;
}

/* In-pod mode: one of ztunnel's listeners. The kernel shows them before the rest. */
static __always_inline bool is_ztunnels_listener(const struct settings *cfg, struct sock *sk)
{
	return cfg && state_of(&sk->__sk_common) == BPF_TCP_LISTEN &&
	       BPF_CORE_READ(sk, __sk_common.skc_num) == cfg->outbound_port &&
	       is_ztunnels_socket(cfg, sk);
}

/* Whether the netns is a pod's that is in pod_ips. */
static __always_inline bool is_known_pod(const struct netns_info *info)
{
	for (int family = V4; family < FAMILIES; family++) {
		const struct pod *pod = bpf_map_lookup_elem(&pod_ips, &info->ip[family]);

		if (pod && pod->netns == info->netns)
			return true;
	}
	return false;
}

static __always_inline bool is_enrolled_netns(struct net *net, __u64 session)
{
	const struct settings *cfg = current_settings();
	struct netns_info info = {};
	enum rule rule;

	netns_read_ips(net, &info);
	if (!cfg || is_ztunnels_pod(cfg, &info) || !is_known_pod(&info))
		return false;
	rule = pod_rule(info.ip);
	if (in_pod_mode(cfg))
		return rule != RULE_OUT && noted(session, ZTUNNEL_LISTENS);
	return rule == RULE_IN;
}

static __always_inline void print_end(struct seq_file *seq, const union addr *ip, __u32 port)
{
	if (addr_is_v4(ip))
		BPF_SEQ_PRINTF(seq, "%pI4:%u ", &ip->word[3], port);
	else
		BPF_SEQ_PRINTF(seq, "[%pI6c]:%u ", ip, port);
}

SEC("iter/tcp")
int direct(struct bpf_iter__tcp *ctx)
{
	struct sock *sk = socket_at(ctx->sk_common);
	struct sock_common *ends = &sk->__sk_common;
	struct seq_file *seq = ctx->meta->seq;
	__u64 session = ctx->meta->session_id, net, *count;
	union addr own, peer;

	if (begins(session))
		BPF_SEQ_PRINTF(seq, "sport = :0\n");
	if (!sk)
		return 0;
	if (is_ztunnels_listener(current_settings(), sk))
		note(session, ZTUNNEL_LISTENS, 1);
	net = (__u64)netns_of(ends);
	if (!is_opened(sk) || !goes_direct(sk) || !is_enrolled_netns(netns_of(ends), session))
		return 0;
	if (!noted(session, net))
		note(session, net, 0);
	count = noted(session, net);
	if (!count || ++*count > CONNECTIONS)
		return 0;
	own = own_end(ends);
	peer = peer_end(ends);
	BPF_SEQ_PRINTF(seq, "or ( src ");
	print_end(seq, &own, BPF_CORE_READ(ends, skc_num));
	BPF_SEQ_PRINTF(seq, "dst ");
	print_end(seq, &peer, bpf_ntohs(BPF_CORE_READ(ends, skc_dport)));
	BPF_SEQ_PRINTF(seq, ")\n");
	return 0;
}
