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
#define FIRST_CHAIN 32 /* sockets */

#define ZTUNNEL_LISTENS 1 /* for note(): no kernel address */

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
	if (!cfg || is_ztunnels_pod(&info) || !is_known_pod(&info))
		return false;
	rule = pod_rule(info.ip);
	if (in_pod_mode(cfg))
		return rule != RULE_OUT && noted(session, ZTUNNEL_LISTENS);
	return rule == RULE_IN;
}

/* Whether the socket is one to name. Global, as netns.h's walks are. */
WALK int is_to_name(__u64 number, __u64 session)
{
	struct sock *sk = (void *)number;
	struct net *net = netns_of(&sk->__sk_common);
	__u64 *count;

	if (!is_opened(sk) || !goes_direct(sk) || !is_enrolled_netns(net, session))
		return false;
	if (!noted(session, (__u64)net))
		note(session, (__u64)net, 0);
	count = noted(session, (__u64)net);
	return count && ++*count <= CONNECTIONS;
}

/* Not inline: what it leaves on the stack would be one more state to verify each time. */
static __noinline void name(struct seq_file *seq, struct sock_common *sk)
{
	__u32 own_port = BPF_CORE_READ(sk, skc_num);
	__u32 peer_port = bpf_ntohs(BPF_CORE_READ(sk, skc_dport));
	union addr own = own_end(sk), peer = peer_end(sk);

	if (addr_is_v4(&peer))
		BPF_SEQ_PRINTF(seq, "or ( src %pI4:%u dst %pI4:%u )\n", &own.word[3], own_port,
			       &peer.word[3], peer_port);
	else
		BPF_SEQ_PRINTF(seq, "or ( src [%pI6c]:%u dst [%pI6c]:%u )\n", &own, own_port, &peer,
			       peer_port);
}

/*
 * What the kernel forgets from 5.15 (04c7820b776f) to 6.16, in a netns without a
 * listener: all in the first chain of the table of connections. Elsewhere these are
 * named twice, which does not matter.
 */
static __always_inline void name_first_chain(struct seq_file *seq, __u64 session)
{
	struct task_struct *reader = (struct task_struct *)bpf_get_current_task();
	struct net *net = BPF_CORE_READ(reader, nsproxy, net_ns);
	__u64 pos = (__u64)BPF_CORE_READ(connection_table(net), ehash, chain.first);

	for (int i = 0; i < FIRST_CHAIN && pos && !(pos & 1); i++) {
		struct sock_common *sk = (void *)pos - offsetof(struct sock_common, skc_nulls_node);

		if (netns_of(sk) == net && is_to_name((__u64)sk, session))
			name(seq, sk);
		pos = (__u64)BPF_CORE_READ((struct hlist_nulls_node *)pos, next);
	}
}

SEC("iter/tcp")
int direct(struct bpf_iter__tcp *ctx)
{
	struct sock *sk = (struct sock *)as_number(ctx->sk_common);
	struct seq_file *seq = ctx->meta->seq;
	__u64 session = ctx->meta->session_id;

	if (begins(session))
		BPF_SEQ_PRINTF(seq, "sport = :0\n");
	if (!sk) { /* at the end */
		name_first_chain(seq, session);
		return 0;
	}
	if (is_ztunnels_listener(current_settings(), sk))
		note(session, ZTUNNEL_LISTENS, 1);
	if (is_to_name((__u64)sk, session))
		name(seq, &sk->__sk_common);
	return 0;
}
