// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/getpeername4: the client of a redirected connection sees the peer
 * that it dialled.
 */
#include "maps.h"
#include "addr.h"

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	struct dialled *dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);

	if (dialled && dialled->given.ip.word[3] == ctx->user_ip4 &&
	    dialled->given.port == bpf_ntohs(ctx->user_port)) {
		ctx->user_ip4 = dialled->asked.ip.word[3];
		ctx->user_port = bpf_htons(dialled->asked.port);
	}
	return 1; /* getpeername cannot be refused */
}
