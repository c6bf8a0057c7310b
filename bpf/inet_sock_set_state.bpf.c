// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/inet_sock_set_state: counts what escaped, as a socket begins a handshake: a
 * connection of an enrolled pod's that our connect program had no verdict for, or
 * that goes elsewhere than it was sent, and that the table does not let pass. 0 on
 * every node that is in order. Three times for a connection, and once of these with
 * something to do, where sockops would run ten times. Decides nothing.
 */
#include "enrolment.h"
#include "numbers.h"
#include "pods.h"

static __always_inline bool goes_to(const struct sock *sk, const struct judged *sent)
{
	const struct sock_common *common = &sk->__sk_common;
	union addr ip = {};

	if (common->skc_dport != bpf_htons(sent->port))
		return false;
	if (addr_is_v4(&sent->ip)) /* an IPv4-mapped one is in both fields */
		return common->skc_daddr == sent->ip.word[3];
	bpf_core_read(&ip, sizeof(ip), &common->skc_v6_daddr);
	return addr_equal(&ip, &sent->ip);
}

/* Whether ztunnel is known to listen in the netns, which enrols it in in-pod mode. */
static __always_inline bool is_listened_in(const struct settings *cfg, __u64 netns)
{
	struct listeners_key key = { netns, cfg->ztunnel_cgroup };
	struct listeners *here = bpf_map_lookup_elem(&ztunnel_listeners, &key);

	return here && (here->all_v4 > 0 || here->local_v4 > 0 || here->v6 > 0);
}

/* Whether a pod of that netns may go to ip, in two halves, without ztunnel. */
WALK int may_pass(__u64 net, __u64 ip0, __u64 ip1, __u32 port)
{
	const struct settings *cfg = current_settings();
	union addr ip = { .half = { ip0, ip1 } };
	struct netns_info info = {};
	enum family family = addr_family(&ip);

	if (!cfg || addr_stays_here(&ip) || is_bypassed(&ip))
		return true;
	if (addr_equal(&ip, &cfg->ztunnel[family]) &&
	    (listener_role(cfg, port) >= 0 || port >= FIRST_PORT))
		return true; /* redirected, and the verdict is another CPU's */
	netns_read_ips((struct net *)net, &info);
	if (in_pod_mode(cfg))
		return pod_rule(info.ip) == RULE_OUT || !is_listened_in(cfg, info.netns) ||
		       netns_has((struct net *)net, &ip);
	if (!is_enrolled(info.ip) || netns_has((struct net *)net, &ip))
		return true;
	return !cfg->ztunnel_cgroup && is_ztunnels_pod(&info);
}

/* Whether the table is for a socket, by its cgroup: below ours, and not ztunnel's. */
WALK int is_judged(__u64 sk)
{
	const struct settings *cfg = current_settings();

	if (!cfg || (cfg->root_cgroup && !socket_is_within((struct sock *)sk, cfg->root_cgroup)))
		return false;
	return !cfg->ztunnel_cgroup || !socket_is_within((struct sock *)sk, cfg->ztunnel_cgroup);
}

static __always_inline bool escapes(struct sock *sk)
{
	const struct settings *cfg = current_settings();
	struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	union addr ip;

	if (!cfg || (addr_is_zero(&cfg->ztunnel[V4]) && addr_is_zero(&cfg->ztunnel[V6])))
		return false;
	if (net_is_no_pod(cfg, net) || !is_judged(as_number(sk)))
		return false;
	ip = peer_end(&sk->__sk_common);
	return !may_pass((__u64)net, ip.half[0], ip.half[1],
			 bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport)));
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old, int new)
{
	struct judged *note;
	__u64 cookie;

	if (new != BPF_TCP_SYN_SENT)
		return 0;
	cookie = sk->__sk_common.skc_cookie.counter; /* 0: connect has not seen it */
	note = noted_verdict(cookie);
	if (!note)
		return 0;
	if (cookie && note->cookie == cookie) {
		note->old = 1;
		if (!note->port || goes_to(sk, note))
			return 0;
		/* For the other one of us, while `load` replaces this: it is counted. */
		note->port = 0;
	}
	if (escapes(sk))
		count(STAT_ESCAPED);
	return 0;
}
