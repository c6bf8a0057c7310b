// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sockops: hands the original destination from the client's socket to the one
 * that the proxy accepts.
 *
 *   client   TCP_CONNECT_CB, before the SYN leaves: writes handovers
 *   proxy    PASSIVE_ESTABLISHED_CB: moves it into the socket's own storage
 *   client   STATE_CB, closed: takes back what nobody accepted
 *
 * Every other event returns at once, and no event is per packet.
 */
#include "maps.h"
#include "addr.h"

#define TCP_CLOSE 7

static __always_inline void hand_over(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct handover_key key = {};
	struct dialled *dialled;

	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (!dialled)
		return;
	if (ctx->family == AF_INET || addr_is_v4(&dialled->given.ip)) {
		key.client = addr_from_v4(ctx->local_ip4);
	} else {
		key.client.word[0] = ctx->local_ip6[0];
		key.client.word[1] = ctx->local_ip6[1];
		key.client.word[2] = ctx->local_ip6[2];
		key.client.word[3] = ctx->local_ip6[3];
	}
	key.client_port = ctx->local_port;
	key.proxy_port = dialled->given.port;
	/* tcp_connect() sends the SYN with write_seq right after this event. */
	key.isn = BPF_CORE_READ((struct tcp_sock *)kernel_socket(ctx), write_seq);

	if (bpf_map_update_elem(&handovers, &key, &dialled->asked, BPF_ANY)) {
		count(STAT_HANDOVERS_FULL);
		return;
	}
	dialled->handover = key;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void take_over(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	const struct settings *cfg = current_settings();
	struct handover_key key = {};
	struct endpoint *asked;

	if (!cfg)
		return;
	if (ctx->local_port != cfg->outbound_port && ctx->local_port != cfg->inbound_port &&
	    ctx->local_port != cfg->dns_port)
		return;
	/* On a dual-stack listener an IPv4 peer's socket is AF_INET6 too. */
	if (ctx->family == AF_INET6) {
		key.client.word[0] = ctx->remote_ip6[0];
		key.client.word[1] = ctx->remote_ip6[1];
		key.client.word[2] = ctx->remote_ip6[2];
		key.client.word[3] = ctx->remote_ip6[3];
	} else {
		key.client = addr_from_v4(ctx->remote_ip4);
	}
	key.client_port = bpf_ntohl(ctx->remote_port);
	key.proxy_port = ctx->local_port;
	key.isn = ctx->rcv_nxt - 1; /* nothing but the SYN has been counted */

	asked = bpf_map_lookup_elem(&handovers, &key);
	if (!asked) {
		count(STAT_NO_HANDOVER);
		return;
	}
	if (bpf_sk_storage_get(&original_dst, sk, asked, BPF_SK_STORAGE_GET_F_CREATE))
		count(STAT_HANDED_OVER);
	bpf_map_delete_elem(&handovers, &key);
}

static __always_inline void take_back(struct bpf_sock *sk)
{
	struct dialled *dialled;

	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (dialled)
		bpf_map_delete_elem(&handovers, &dialled->handover);
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk; /* a second look would be a second NULL */

	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		hand_over(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		take_over(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			take_back(sk);
		break;
	}
	return 1; /* ctx->reply stays as other programs set it */
}
