// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect4: sends the TCP connections of enrolled pods to ztunnel, by
 * the table in verdict.h, and keeps the original destination with the socket.
 */
#include "verdict.h"

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct dialled dialled = {
		.asked.ip = addr_from_v4(ctx->user_ip4),
		.asked.port = bpf_ntohs(ctx->user_port),
	};
	union addr from = {};
	int verdict = redirect(ctx, &dialled, &from);

	if (!addr_is_zero(&from)) {
		struct sockaddr_in name = { .sin_family = AF_INET,
					    .sin_addr.s_addr = from.word[3] };

		/* Fails where the program has bound the socket itself. */
		bpf_bind(ctx, (struct sockaddr *)&name, sizeof(name));
	}
	if (!addr_is_zero(&dialled.given.ip)) {
		ctx->user_ip4 = dialled.given.ip.word[3];
		ctx->user_port = bpf_htons(dialled.given.port);
	}
	return verdict;
}
