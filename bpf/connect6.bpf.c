// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect6: as connect4, for AF_INET6 sockets. One that dials an
 * IPv4-mapped address comes here, never to connect4, and gets the IPv4 verdict.
 */
#include "verdict.h"

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct dialled dialled = {
		.asked.ip.word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				   ctx->user_ip6[3] },
		.asked.port = bpf_ntohs(ctx->user_port),
	};
	union addr from = {};
	int verdict = redirect(ctx, &dialled, &from);

	if (!addr_is_zero(&from)) {
		struct sockaddr_in6 name = { .sin6_family = AF_INET6 };

		/* Fails where the program has bound the socket itself. */
		__builtin_memcpy(&name.sin6_addr, &from, sizeof(from));
		bpf_bind(ctx, (struct sockaddr *)&name, sizeof(name));
	}
	if (!addr_is_zero(&dialled.given.ip)) {
		ctx->user_ip6[0] = dialled.given.ip.word[0];
		ctx->user_ip6[1] = dialled.given.ip.word[1];
		ctx->user_ip6[2] = dialled.given.ip.word[2];
		ctx->user_ip6[3] = dialled.given.ip.word[3];
		ctx->user_port = bpf_htons(dialled.given.port);
	}
	return verdict;
}
