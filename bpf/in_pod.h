/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The third room, in-pod mode: how the original destination crosses to ztunnel, which
 * listens in the client's own netns, on [::].
 *
 * By a number in the address: 127.128.0.0/9 all leads to ztunnel, and the socket that
 * it accepts has what was dialled as its own address. The client's socket may be gone
 * by then, and connect() stores nothing with it.
 *
 *   number   generation (11 bits), set (9), way (3); generation 0 is no number
 *   set      by a hash of the destination: struct number_key -> WAYS ways
 *   way      what its number of its present generation stands for
 *
 * A way is given to another destination, under the next generation, only when nobody
 * may still ask for it: no connection to it is under way, or for LONGEST_HANDSHAKE none
 * was begun. A number of an earlier generation is lost, and never another's. Numbers are each
 * netns' own, and only pods that are some cgroup's home have any: else one could
 * make netns until there is no room for others'.
 *
 * Where there is no number, and for what cannot be sent to an IPv4 address (IPV6_V6ONLY,
 * or bound to an IPv6 one), the destination stays with the client's socket, which is
 * looked up from the accepted one: both are in one netns. 127.128.0.0, ::1, or the
 * pod's own IPv6 address says so.
 */
#ifndef ONRAMP_IN_POD_H
#define ONRAMP_IN_POD_H

#include "handover.h"
#include "pods.h"

#define SOURCES_NET 0x7f400000 /* 127.64.0.0/10, in host byte order */
#define WAY_BITS 3
#define SET_BITS 9
#define NUMBER_SETS (1 << SET_BITS)
#define GENERATIONS ((1 << (23 - SET_BITS - WAY_BITS)) - 2) /* one has lo's broadcast address */
#define LONGEST_HANDSHAKE 150				    /* seconds; tcp_syn_retries: 127 */

_Static_assert(WAYS == 1 << WAY_BITS, "a number's last bits are its way");

static __always_inline bool is_port_of(enum listener listener, __u32 port)
{
	const struct settings *cfg = current_settings();

	return cfg && cfg->mode == IN_POD_MODE && cfg->port[listener] == port;
}

/* One of the addresses that ztunnel's connections to apps come from: see bind.h. */
static __always_inline bool ip_is_source(__be32 ip)
{
	return bpf_ntohl(ip) >> 22 == SOURCES_NET >> 22;
}

/* The coarse clock (5.11) is that of the last tick, and costs nothing to read. */
static __always_inline __u32 seconds_now(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns() / 1000000000;
	return bpf_ktime_get_ns() / 1000000000;
}

static __always_inline bool way_is_for(const struct way *way, const union addr *ip, __u32 port,
				       __u32 scope)
{
	return way->port == port && way->scope == scope && addr_equal(&way->ip, ip);
}

/* Whether nobody may still ask for what the way stands for. */
static __always_inline bool way_is_free(const struct way *way, __u32 now)
{
	if (!way->port)
		return true;
	/* Another CPU may have seen a later second than the one that is now here. */
	return (__s32)(now - way->last) > (way->open ? LONGEST_HANDSHAKE : 1);
}

/* For a new set. */
static const volatile __u64 no_numbers[sizeof(struct number_set) / sizeof(__u64)] = {};

/* The set, made if need be; NULL: there is no room. */
static __always_inline struct number_set *number_set(const struct number_key *key)
{
	struct number_set *set = bpf_map_lookup_elem(&numbers, key);

	if (set)
		return set;
	bpf_map_update_elem(&numbers, key, (const void *)no_numbers, BPF_NOEXIST);
	return bpf_map_lookup_elem(&numbers, key);
}

/*
 * The address, in host byte order, of a destination (its address in two halves, port,
 * and 32 bits above it scope) in a netns; 0: none is free.
 */
WALK __u32 number_give(__u64 netns, __u64 ip0, __u64 ip1, __u64 port_scope)
{
	__u32 port = port_scope & 0xffff, scope = port_scope >> 32, found = WAYS, generation = 0;
	__u64 hash = (ip0 ^ ip1 ^ (__u64)port << 17) * 0x9e3779b97f4a7c15ULL;
	struct number_key key = { .netns = netns };
	union addr ip = { .half = { ip0, ip1 } };
	__u32 now = seconds_now();
	struct number_set *set;
	struct way *way;
	bool is_new;

	key.set = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ULL >> (64 - SET_BITS);
	set = number_set(&key);
	if (!set)
		return 0;
	bpf_spin_lock(&set->lock);
	for (found = 0; found < WAYS; found++)
		if (way_is_for(&set->way[found], &ip, port, scope))
			break;
	is_new = found == WAYS;
	for (__u32 i = 0; is_new && i < WAYS; i++)
		if (found == WAYS && way_is_free(&set->way[i], now))
			found = i;
	if (found < WAYS) {
		way = &set->way[found & (WAYS - 1)];
		if (is_new) {
			way->ip = ip;
			way->port = port;
			way->scope = scope;
			way->open = 0;
			/* A new set does not begin where one that was forgotten did. */
			way->generation = (way->generation ?: now) % GENERATIONS + 1;
		}
		way->open++;
		way->last = now;
		generation = way->generation;
	}
	bpf_spin_unlock(&set->lock);
	if (found == WAYS)
		return 0;
	return NUMBERED_NET | generation << (SET_BITS + WAY_BITS) | key.set << WAY_BITS | found;
}

/*
 * What an address stands for in a netns. False: for nothing, or nothing any more.
 * accepted: ztunnel has the connection now, and keeps what it stands for with it.
 */
static __always_inline bool number_read(__u64 netns, __be32 address, struct endpoint *to,
					bool accepted)
{
	__u32 number = bpf_ntohl(address) - NUMBERED_NET, at = number & (WAYS - 1);
	struct number_key key = {
		.netns = netns,
		.set = number >> WAY_BITS & (NUMBER_SETS - 1),
	};
	struct number_set *set = bpf_map_lookup_elem(&numbers, &key);
	bool is = false;
	struct way *way;

	if (!set)
		return false;
	way = &set->way[at];
	bpf_spin_lock(&set->lock);
	if (way->port && way->generation == number >> (SET_BITS + WAY_BITS)) {
		to->ip = way->ip;
		to->port = way->port;
		to->scope = way->scope;
		if (accepted && way->open)
			way->open--;
		is = true;
	}
	bpf_spin_unlock(&set->lock);
	return is;
}

/*
 * Whether an AF_INET6 socket cannot be sent to an IPv4-mapped address, and in *ip where
 * it goes instead: one bound to an IPv6 address to its pod's own (to ::1 it would not
 * get its last ACK), one that is IPV6_V6ONLY to ::1.
 */
static __always_inline bool is_ipv6_only(struct bpf_sock_addr *ctx, const struct netns_info *now,
					 union addr *ip)
{
	const struct sock_common *sk;
	union addr bound;

	if (ctx->user_family != AF_INET6)
		return false;
	sk = tcp_fields(ctx->sk);
	if (!sk)
		return false;
	for (int i = 0; i < 4; i++) bound.word[i] = sk->skc_v6_rcv_saddr.s6_addr32[i];
	if (!addr_is_zero(&bound) && !addr_is_v4(&bound)) {
		*ip = now->ip[V6];
		return true;
	}
	if (BPF_CORE_READ_BITFIELD(sk, skc_ipv6only)) {
		*ip = (union addr){ .word[3] = bpf_htonl(1) };
		return true;
	}
	return false;
}

/* Sends the context's socket, in the netns `now`, to ztunnel's listener. False: refused. */
static __always_inline bool in_pod_carry(struct bpf_sock_addr *ctx, const struct settings *cfg,
					 enum listener listener, const struct netns_info *now,
					 const struct endpoint *asked, struct endpoint *given)
{
	bool v4 = addr_is_v4(&asked->ip);
	__u32 number = 0;

	given->port = cfg->port[listener];
	if (listener == DNS) { /* listened for on these alone, and needs no destination */
		given->ip = v4 ? addr_from_v4(bpf_htonl(0x7f000001)) :
				 (union addr){ .word[3] = bpf_htonl(1) };
		return dialled_keep(ctx, asked, given);
	}
	if (!v4 && is_ipv6_only(ctx, now, &given->ip))
		return dialled_keep(ctx, asked, given);
	if (now->flags & NETNS_HOME) {
		number = number_give(now->netns, asked->ip.half[0], asked->ip.half[1],
				     asked->port | (__u64)asked->scope << 32);
		if (!number)
			count(STAT_NUMBERS_FULL);
	}
	given->ip = addr_from_v4(bpf_htonl(number ?: NUMBERED_NET));
	return number || dialled_keep(ctx, asked, given);
}

/*
 * The other end of the context's socket, whose peer is at ip and port (the latter in
 * network byte order), where both are in one netns; NULL: there is none. To be released.
 */
static __always_inline struct bpf_sock *other_end(struct bpf_sock_addr *ctx, const union addr *ip,
						  __be16 port)
{
	struct bpf_sock_tuple tuple = {};

	if (addr_is_v4(ip)) {
		tuple.ipv4.saddr = ctx->sk->src_ip4;
		tuple.ipv4.sport = bpf_htons(ctx->sk->src_port);
		tuple.ipv4.daddr = ip->word[3];
		tuple.ipv4.dport = port;
		return bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	tuple.ipv6.saddr[0] = ctx->sk->src_ip6[0];
	tuple.ipv6.saddr[1] = ctx->sk->src_ip6[1];
	tuple.ipv6.saddr[2] = ctx->sk->src_ip6[2];
	tuple.ipv6.saddr[3] = ctx->sk->src_ip6[3];
	tuple.ipv6.sport = bpf_htons(ctx->sk->src_port);
	__builtin_memcpy(tuple.ipv6.daddr, ip, sizeof(*ip));
	tuple.ipv6.dport = port;
	return bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

#endif
