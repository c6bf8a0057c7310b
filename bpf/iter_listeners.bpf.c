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
	struct netns_info info = {};
	__u32 at;
	bool v4;

	if (!sk || sk->skc_state != BPF_TCP_LISTEN)
		return 0;
	info.inum = sk->skc_net.net->ns.inum;
	info.flags = netns_initial((__u64)BPF_CORE_READ(sk, skc_net.net), bpf_get_current_task());
	if (netns_is_no_pod(cfg, &info)) /* somebody just looks */
		return 0;
	switch (sk->skc_num) {
	case OUTBOUND_PORT:
		at = OUTBOUND * FAMILIES;
		break;
	case INBOUND_PORT:
		at = INBOUND * FAMILIES;
		break;
	case DNS_CAPTURE_PORT:
		at = DNS * FAMILIES;
		break;
	default:
		return 0;
	}
	v4 = sk->skc_family == AF_INET || !BPF_CORE_READ_BITFIELD(sk, skc_ipv6only);
	for (int family = V4; family < FAMILIES; family++, at++) {
		if (family == V4 ? !v4 : sk->skc_family != AF_INET6)
			continue;
		/* Another netns' was another ztunnel's. */
		if (cfg && cfg->ztunnel_netns != info.inum)
			bpf_map_delete_elem(&proxy_sockets, &at);
		/* Never once more: 5.10 would then forget to take it out when it closes. */
		bpf_map_update_elem(&proxy_sockets, &at, sk, BPF_NOEXIST);
	}
	return 0;
}
