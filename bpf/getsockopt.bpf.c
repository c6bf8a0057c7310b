// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/getsockopt: answers SO_ORIGINAL_DST (SOL_IP) and IP6T_SO_ORIGINAL_DST
 * (SOL_IPV6) on sockets that the proxy accepted from a redirected client, over
 * whatever the kernel says: with conntrack it would name the proxy itself.
 * Everything else keeps the kernel's own answer. Every getsockopt() below the
 * cgroup pays for the look: it is attached to ztunnel's where that is known.
 */
#include "in_pod.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* and IP6T_SO_ORIGINAL_DST */

#define FAIL 0 /* getsockopt() fails with EPERM: before 5.18 there is no other error */

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

/*
 * Whether the kernel's own answer is the socket's own address: conntrack knows the
 * connection, and of no other destination. A proxy that believed it would call itself.
 */
static __always_inline bool kernel_says_itself(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	const struct sockaddr_in *v4 = ctx->optval;
	const struct sockaddr_in6 *v6 = ctx->optval;
	const void *end = ctx->optval_end;

	if (ctx->retval)
		return false;
	if (ctx->level == SOL_IP)
		return (const void *)(v4 + 1) <= end && v4->sin_addr.s_addr == sk->src_ip4 &&
		       bpf_ntohs(v4->sin_port) == sk->src_port;
	return (const void *)(v6 + 1) <= end && v6->sin6_addr.s6_addr32[0] == sk->src_ip6[0] &&
	       v6->sin6_addr.s6_addr32[1] == sk->src_ip6[1] &&
	       v6->sin6_addr.s6_addr32[2] == sk->src_ip6[2] &&
	       v6->sin6_addr.s6_addr32[3] == sk->src_ip6[3] &&
	       bpf_ntohs(v6->sin6_port) == sk->src_port;
}

/*
 * Whether conntrack knows of another destination: the pod's own rules redirected it, as
 * istio-cni's do until they have been taken over. Never what onramp redirected, for that
 * was to ztunnel's port from the first.
 */
static __always_inline bool kernel_knows(struct bpf_sockopt *ctx, __u32 port)
{
	/* The port is at the same place in both. */
	const struct sockaddr_in *name = ctx->optval;

	return !ctx->retval && (const void *)(name + 1) <= ctx->optval_end &&
	       bpf_ntohs(name->sin_port) != port;
}

/*
 * A socket without a destination: what ztunnel accepted where only redirected
 * connections come has lost it, and so has what NAT has made another of since.
 */
static __always_inline int no_destination(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	const struct settings *cfg = current_settings();
	__u32 port = sk->src_port;

	if (!cfg ||
	    (port != cfg->port[OUTBOUND] && port != cfg->port[INBOUND] && port != cfg->port[HBONE]))
		return keep_kernels_answer(ctx);
	if (cfg->mode == IN_POD_MODE && port == cfg->port[OUTBOUND] ? kernel_knows(ctx, port) :
								      !kernel_says_itself(ctx, sk))
		return keep_kernels_answer(ctx);
	count(STAT_LOST);
	return FAIL;
}

/*
 * What the number in the socket's own address stands for. At ztunnel's outbound port alone:
 * anybody in the pod may dial a number at another, where ztunnel would take what it stands
 * for as a neighbour's wish, and go there without policy. False: for nothing.
 */
static __always_inline bool numbered_dst(struct bpf_sockopt *ctx, struct bpf_sock *sk,
					 struct endpoint *asked)
{
	return is_port_of(OUTBOUND, sk->src_port) && ip_is_numbered(sk->src_ip4) &&
	       number_read(socket_netns_id(ctx), sk->src_ip4, asked, false);
}

SEC("cgroup/getsockopt")
int getsockopt(struct bpf_sockopt *ctx)
{
	/* clang would merge these stores; the verifier wants them apart. */
	volatile struct bpf_sockopt *answer = ctx;
	/* Read here: further down clang would make it arithmetic on ctx. */
	void *optval = ctx->optval, *end = ctx->optval_end;
	bool v4 = ctx->level == SOL_IP;
	struct bpf_sock *sk = ctx->sk;
	struct endpoint *kept, asked = {};

	if (ctx->optname != SO_ORIGINAL_DST || (!v4 && ctx->level != SOL_IPV6) || !sk)
		return keep_kernels_answer(ctx);
	kept = bpf_sk_storage_get(&original_dst, sk, NULL, 0);
	if (kept)
		asked = *kept;
	else if (!numbered_dst(ctx, sk, &asked))
		return no_destination(ctx, sk);
	if (addr_is_v4(&asked.ip) != v4)
		return FAIL; /* the proxy asks at the other level, where the answer is */

	if (v4) {
		struct sockaddr_in *name = optval;

		if ((void *)(name + 1) > end)
			return keep_kernels_answer(ctx);
		*name = (struct sockaddr_in){
			.sin_family = AF_INET,
			.sin_port = bpf_htons(asked.port),
			.sin_addr.s_addr = asked.ip.word[3],
		};
		answer->optlen = sizeof(*name);
	} else {
		struct sockaddr_in6 *name = optval;

		if ((void *)(name + 1) > end)
			return keep_kernels_answer(ctx);
		name->sin6_family = AF_INET6;
		name->sin6_port = bpf_htons(asked.port);
		name->sin6_flowinfo = 0;
		__builtin_memcpy(&name->sin6_addr, &asked.ip, sizeof(asked.ip));
		name->sin6_scope_id = asked.scope;
		answer->optlen = sizeof(*name);
	}
	answer->retval = 0;
	return 1;
}
