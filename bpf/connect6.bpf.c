// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect6: as connect4, for AF_INET6 sockets. One that dials an
 * IPv4-mapped address comes here, never to connect4, and gets the IPv4 verdict.
 */
#include "verdict.h"

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct endpoint given = {}, asked = {
		.ip.word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
			     ctx->user_ip6[3] },
		.port = bpf_ntohs(ctx->user_port),
	};
	int verdict = redirect(ctx, &asked, &given);

	if (!addr_is_zero(&given.ip)) {
		ctx->user_ip6[0] = given.ip.word[0];
		ctx->user_ip6[1] = given.ip.word[1];
		ctx->user_ip6[2] = given.ip.word[2];
		ctx->user_ip6[3] = given.ip.word[3];
		ctx->user_port = bpf_htons(given.port);
	}
	return verdict;
}
