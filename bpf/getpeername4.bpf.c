// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/getpeername4: the client of a redirected connection sees the peer
 * that it dialled.
 */
#include "peername.h"

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	union addr seen = addr_from_v4(ctx->user_ip4);
	const struct endpoint *asked = dialled_peer(ctx, &seen);

	if (asked) {
		ctx->user_ip4 = asked->ip.word[3];
		ctx->user_port = bpf_htons(asked->port);
	}
	return 1; /* getpeername cannot be refused */
}
