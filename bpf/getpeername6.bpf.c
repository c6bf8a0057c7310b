// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cgroup/getpeername6: as getpeername4, for AF_INET6 sockets. */
#include "peername.h"

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
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
	return 1; /* getpeername cannot be refused */
}
