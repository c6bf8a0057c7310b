/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * In-pod mode, IPv4: original destinations by number. The rewritten address is
 * in 127.128.0.0/9, with 16 bits of number and 7 bits of lot, and so carries the
 * destination itself: connect needs no storage, sockops hands nothing over, and
 * getsockopt and getpeername read it from the socket's own address.
 *
 * A number stands for one destination in one netns for as long as the map lives,
 * so that no connection can find another's, nor a pod learn whom its neighbours
 * dial (before 5.12: the pod before it whose struct net it got). When the places
 * for a new destination are taken, it is handed over as in node mode: that costs
 * time only.
 */
#ifndef ONRAMP_DESTINATIONS_H
#define ONRAMP_DESTINATIONS_H

#include "addr.h"
#include "maps.h"

/* Both in host byte order, as is the number. */
#define NUMBERED_NET 0x7f800000	  /* 127.128.0.0/9 */
#define UNNUMBERED_NET 0x7f400000 /* 127.64.0.0/10: stands for nothing */
#define LOT_BITS 7		  /* so that the ports to one destination do not run out */
#define NUMBER_TRIES 8		  /* places where a destination may be, by its hash */

/*
 * The address, in host byte order, for a connection from a netns to a destination
 * (its address in two halves, and port): numbered, or where no number is left, any
 * of the others. Global, as netns.h's walks are.
 */
__weak __noinline __u32 destination_to_ip(__u64 ip0, __u64 ip1, __u16 port, __u64 netns)
{
	struct destination fresh = { { { .half = { ip0, ip1 } }, port }, netns }, *found;
	__u64 hash = (ip0 ^ ip1 ^ (__u64)port << 16 ^ netns << 32) * 0x9e3779b97f4a7c15ULL;
	__u32 lot = bpf_get_prandom_u32();

	for (int i = 0; i < NUMBER_TRIES; i++) {
		__u32 number = ((hash >> 48) + i) % DESTINATIONS;

		found = bpf_map_lookup_elem(&destinations, &number);
		if (!found) {
			/* Another CPU may be first, and for the same destination. */
			bpf_map_update_elem(&destinations, &number, &fresh, BPF_NOEXIST);
			found = bpf_map_lookup_elem(&destinations, &number);
		}
		if (found && found->netns == netns && found->asked.port == port &&
		    addr_equal(&found->asked.ip, &fresh.asked.ip))
			return NUMBERED_NET | number << LOT_BITS | lot >> (32 - LOT_BITS);
	}
	count(STAT_DESTINATIONS_FULL);
	return UNNUMBERED_NET | lot >> 10;
}

static __always_inline bool ip_is_numbered(__be32 ip)
{
	return bpf_ntohl(ip) >> 23 == NUMBERED_NET >> 23;
}

static __always_inline bool addr_is_numbered(const union addr *ip)
{
	return addr_is_v4(ip) && ip_is_numbered(ip->word[3]);
}

/* What an address stands for in the netns of the context's socket; NULL: nothing. */
static __always_inline const struct endpoint *ip_to_destination(const void *ctx, __be32 ip)
{
	__u32 number = (bpf_ntohl(ip) - NUMBERED_NET) >> LOT_BITS, flags = 0;
	const struct destination *found;

	if (!ip_is_numbered(ip))
		return NULL;
	found = bpf_map_lookup_elem(&destinations, &number);
	if (!found ||
	    found->netns !=
		    netns_id(BPF_CORE_READ(kernel_socket(ctx), __sk_common.skc_net.net), &flags))
		return NULL;
	return &found->asked;
}

#endif
