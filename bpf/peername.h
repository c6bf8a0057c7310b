/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What getpeername4 and getpeername6 share. */
#ifndef ONRAMP_PEERNAME_H
#define ONRAMP_PEERNAME_H

#include "maps.h"
#include "addr.h"

/*
 * Whom the socket dialled, or NULL: it was not redirected, or its peer (seen,
 * ctx->user_port) is another than where onramp sent it.
 */
static __always_inline const struct endpoint *dialled_peer(struct bpf_sock_addr *ctx,
							   const union addr *seen)
{
	const struct dialled *dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);

	if (!dialled || !addr_equal(&dialled->given.ip, seen) ||
	    dialled->given.port != bpf_ntohs(ctx->user_port))
		return NULL;
	return &dialled->asked;
}

#endif
