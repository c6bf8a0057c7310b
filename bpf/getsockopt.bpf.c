// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/getsockopt: answers SO_ORIGINAL_DST (SOL_IP) and IP6T_SO_ORIGINAL_DST
 * (SOL_IPV6) on sockets that the proxy accepted from a redirected client, over
 * whatever the kernel says: with conntrack it would name the proxy itself.
 * Everything else keeps the kernel's own answer. Every getsockopt() below the
 * cgroup pays for the look: where ztunnel's cgroup is known, attach it there.
 */
#include "numbers.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* and IP6T_SO_ORIGINAL_DST */

static __always_inline int keep_kernels_answer(struct bpf_sockopt *ctx)
{
	/*
	 * The kernel shows us one page at most and takes a longer length back
	 * as an error; 0 says that nothing was touched. Clamping to the page
	 * would cut iptables' answers short (merbridge issue 323).
	 */
	if (ctx->optlen > PAGE_SIZE)
		ctx->optlen = 0;
	return 1;
}

/* Node mode: by the number in the socket's own port, and its peer's address. */
static __always_inline const struct endpoint *peers_destination(struct bpf_sockopt *ctx,
								struct bpf_sock *sk)
{
	union addr client = { .word = { sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2],
					sk->dst_ip6[3] } };
	const struct settings *cfg = current_settings();
	const struct destination *found;

	if (sk->family == AF_INET)
		client = addr_from_v4(sk->dst_ip4);
	if (!cfg || !netns_is_ztunnels(ctx, cfg))
		return NULL;
	found = port_to_destination(client_of(&client), sk->src_port);
	return found ? &found->asked : NULL;
}

SEC("cgroup/getsockopt")
int getsockopt(struct bpf_sockopt *ctx)
{
	/* clang would merge these stores; the verifier wants them apart. */
	volatile struct bpf_sockopt *answer = ctx;
	/* Read here: further down clang would make it arithmetic on ctx. */
	void *optval = ctx->optval, *end = ctx->optval_end;
	bool v4 = ctx->level == SOL_IP;
	const struct endpoint *asked = NULL;
	struct bpf_sock *sk = ctx->sk;

	if (ctx->optname != SO_ORIGINAL_DST || (!v4 && ctx->level != SOL_IPV6))
		return keep_kernels_answer(ctx);
	if (!sk)
		return keep_kernels_answer(ctx);
	if (v4) /* of a dual-stack socket as well */
		asked = ip_to_destination(ctx, sk->src_ip4);
	if (!asked && port_is_numbered(sk->src_port))
		asked = peers_destination(ctx, sk);
	if (!asked)
		asked = bpf_sk_storage_get(&original_dst, sk, NULL, 0);
	if (!asked || addr_is_v4(&asked->ip) != v4)
		return keep_kernels_answer(ctx);

	if (v4) {
		struct sockaddr_in *name = optval;

		if ((void *)(name + 1) > end)
			return keep_kernels_answer(ctx);
		*name = (struct sockaddr_in){
			.sin_family = AF_INET,
			.sin_port = bpf_htons(asked->port),
			.sin_addr.s_addr = asked->ip.word[3],
		};
		answer->optlen = sizeof(*name);
	} else {
		struct sockaddr_in6 *name = optval;

		if ((void *)(name + 1) > end)
			return keep_kernels_answer(ctx);
		name->sin6_family = AF_INET6;
		name->sin6_port = bpf_htons(asked->port);
		name->sin6_flowinfo = 0;
		__builtin_memcpy(&name->sin6_addr, &asked->ip, sizeof(asked->ip));
		name->sin6_scope_id = 0;
		answer->optlen = sizeof(*name);
	}
	answer->retval = 0;
	return 1;
}
