/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Questions about one address (union addr of onramp.h). One branch each where it
 * can be: each doubles what the verifier follows.
 */
#ifndef ONRAMP_ADDR_H
#define ONRAMP_ADDR_H

#include "kernel.h"

#define NUMBERED_NET 0x7f800000 /* 127.128.0.0/9, in host byte order: see in_pod.h */

static __always_inline bool ip_is_numbered(__be32 ip)
{
	return bpf_ntohl(ip) >> 23 == NUMBERED_NET >> 23;
}

static __always_inline bool addr_equal(const union addr *a, const union addr *b)
{
	return !((a->half[0] ^ b->half[0]) | (a->half[1] ^ b->half[1]));
}

static __always_inline bool addr_is_zero(const union addr *a)
{
	return !(a->half[0] | a->half[1]);
}

static __always_inline bool addr_is_v4(const union addr *a)
{
	return !(a->half[0] | (a->word[2] ^ bpf_htonl(0xffff)));
}

static __always_inline enum family addr_family(const union addr *a)
{
	return addr_is_v4(a) ? V4 : V6;
}

static __always_inline union addr addr_from_v4(__be32 ip)
{
	return (union addr){ .word = { 0, 0, bpf_htonl(0xffff), ip } };
}

static __always_inline bool addr_is_link_local_v6(const union addr *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool addr_is_loopback(const union addr *a)
{
	if (addr_is_v4(a))
		return a->byte[12] == 127;
	return !(a->half[0] | a->word[2] | (a->word[3] ^ bpf_htonl(1)));
}

/* Loopback, unspecified or multicast. */
static __always_inline bool addr_stays_here(const union addr *a)
{
	if (addr_is_v4(a)) {
		__u32 ip = bpf_ntohl(a->word[3]);

		return ip >> 24 == 127 || ip == 0 || ip >> 28 == 0xe;
	}
	return a->byte[0] == 0xff || !(a->half[0] | a->word[2] | (a->word[3] & ~bpf_htonl(1)));
}

/* Whom a socket dialled. An IPv4-mapped address stays so, which is IPv4 here. */
static __always_inline union addr peer_end(struct sock_common *sk)
{
	union addr ip = addr_from_v4(BPF_CORE_READ(sk, skc_daddr));

	if (BPF_CORE_READ(sk, skc_family) == AF_INET6)
		bpf_core_read(&ip, sizeof(ip), &sk->skc_v6_daddr);
	return ip;
}

/* The address that a sock_addr program is to show or change; v4: it is one of IPv4. */
static __always_inline union addr name_read(struct bpf_sock_addr *ctx, bool v4)
{
	if (v4)
		return addr_from_v4(ctx->user_ip4);
	return (union addr){ .word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				       ctx->user_ip6[3] } };
}

static __always_inline void name_write(struct bpf_sock_addr *ctx, bool v4, const union addr *ip)
{
	if (v4) {
		ctx->user_ip4 = ip->word[3];
		return;
	}
	ctx->user_ip6[0] = ip->word[0];
	ctx->user_ip6[1] = ip->word[1];
	ctx->user_ip6[2] = ip->word[2];
	ctx->user_ip6[3] = ip->word[3];
}

#endif
