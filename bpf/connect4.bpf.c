// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect4: sends the TCP connections of enrolled pods to ztunnel, by
 * the table in verdict.h, and keeps the original destination with the socket.
 */
#include "verdict.h"

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct endpoint given = {}, asked = {
		.ip = addr_from_v4(ctx->user_ip4),
		.port = bpf_ntohs(ctx->user_port),
	};
	int verdict = redirect(ctx, &asked, &given);

	if (!addr_is_zero(&given.ip)) {
		ctx->user_ip4 = given.ip.word[3];
		ctx->user_port = bpf_htons(given.port);
	}
	return verdict;
}
