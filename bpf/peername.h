/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What getpeername and recvmsg share: a peer shown as the one that was dialled. */
#ifndef ONRAMP_PEERNAME_H
#define ONRAMP_PEERNAME_H

#include "numbers.h"

/* Node mode: by the number in the peer's port, and the socket's own address. */
static __always_inline const struct endpoint *own_destination(struct bpf_sock_addr *ctx)
{
	union addr own = own_end(&kernel_socket(ctx)->__sk_common);
	const struct destination *found;

	found = port_to_destination(client_of(&own), bpf_ntohs(ctx->user_port));
	return found && found->netns == socket_netns_id(ctx) ? &found->asked : NULL;
}

/*
 * Whom the socket dialled, or NULL: it was not redirected, or its peer (seen,
 * ctx->user_port) is another than where onramp sent it.
 */
static __always_inline const struct endpoint *dialled_peer(struct bpf_sock_addr *ctx,
							   const union addr *seen)
{
	const struct settings *cfg = current_settings();
	const struct dialled *dialled;

	if (addr_is_numbered(seen) && cfg && bpf_ntohs(ctx->user_port) == cfg->outbound_port)
		return ip_to_destination(ctx, seen->word[3]);
	if (cfg && port_is_numbered(bpf_ntohs(ctx->user_port)) &&
	    addr_equal(seen, &cfg->ztunnel[addr_family(seen)]) && ctx->type == SOCK_STREAM &&
	    is_opened_by_connect(kernel_socket(ctx))) /* ztunnel dials pods from such ports */
		return own_destination(ctx);
	dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);
	if (!dialled || dialled->given.port != bpf_ntohs(ctx->user_port))
		return NULL;
	/* Within loopback an answer may come from the pod's own address. */
	if (!addr_equal(&dialled->given.ip, seen) && !addr_is_loopback(&dialled->given.ip))
		return NULL;
	return &dialled->asked;
}

static __always_inline int show_dialled4(struct bpf_sock_addr *ctx)
{
	union addr seen = addr_from_v4(ctx->user_ip4);
	const struct endpoint *asked = dialled_peer(ctx, &seen);

	if (asked) {
		ctx->user_ip4 = asked->ip.word[3];
		ctx->user_port = bpf_htons(asked->port);
	}
	return 1; /* neither can be refused */
}

static __always_inline int show_dialled6(struct bpf_sock_addr *ctx)
{
	union addr seen = { .word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				      ctx->user_ip6[3] } };
	const struct endpoint *asked = dialled_peer(ctx, &seen);

	if (asked) {
		ctx->user_ip6[0] = asked->ip.word[0];
		ctx->user_ip6[1] = asked->ip.word[1];
		ctx->user_ip6[2] = asked->ip.word[2];
		ctx->user_ip6[3] = asked->ip.word[3];
		ctx->user_port = bpf_htons(asked->port);
	}
	return 1; /* neither can be refused */
}

#endif
