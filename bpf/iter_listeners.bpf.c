// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/tcp: finds ztunnel's listeners, for sk_lookup, that are older than the load.
 * The kernel iterates over the reader's netns, which the loader makes ztunnel's.
 * Reading the pinned link runs it; it prints nothing.
 */
#include "numbers.h"

SEC("iter/tcp")
int listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	const struct settings *cfg = current_settings();
	struct net *net;
	__u32 at;
	int role;
	bool v4;

	if (!cfg || !sk || sk->skc_state != BPF_TCP_LISTEN)
		return 0;
	net = BPF_CORE_READ(sk, skc_net.net);
	role = listener_role(cfg, sk->skc_num);
	if (role < 0 || net_is_no_pod(cfg, net)) /* the node's: somebody just looks */
		return 0;
	at = role * FAMILIES;
	v4 = sk->skc_family == AF_INET || !BPF_CORE_READ_BITFIELD(sk, skc_ipv6only);
	for (int family = V4; family < FAMILIES; family++, at++) {
		if (family == V4 ? !v4 : sk->skc_family != AF_INET6)
			continue;
		/* Another netns' was another ztunnel's. */
		if (cfg->ztunnel_netns != BPF_CORE_READ(net, ns.inum))
			bpf_map_delete_elem(&proxy_sockets, &at);
		/* Never once more: 5.10 would then forget to take it out when it closes. */
		bpf_map_update_elem(&proxy_sockets, &at, sk, BPF_NOEXIST);
	}
	return 0;
}
