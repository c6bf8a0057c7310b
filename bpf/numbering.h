/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How connect gives connections the numbers of numbers.h. */
#ifndef ONRAMP_NUMBERING_H
#define ONRAMP_NUMBERING_H

#include "numbers.h"

#define NUMBER_TRIES 8 /* places where a destination may be, by its hash */

/*
 * For each 128 dials a destination gets another number, up to so many: the ports
 * of a client that dials without a pause, and keeps them in TIME_WAIT for a
 * minute, do not run out below 15,000 connections a second.
 */
#define DIALS_PER_NUMBER 128
#define MOST_NUMBERS 32

/* Longer than a handshake may take (tcp_syn_retries: 127 s). */
#define LENT_SECONDS 130

/*
 * Overwrites the entry of a netns that is gone, one CPU at a time: between a look
 * and an update another may have, and given the number away.
 */
static __noinline int overwrite(const struct number_key *key, const struct destination *fresh)
{
	struct handover_key lock = { .netns = key->client, .isn = key->number }; /* no ports */
	struct handover none = {};
	struct destination *found;

	if (bpf_map_update_elem(&handovers, &lock, &none, BPF_NOEXIST))
		return 0;
	found = bpf_map_lookup_elem(&destinations, key);
	if (found && !netns_is_alive((struct net *)found->net, found->netns))
		bpf_map_update_elem(&destinations, key, fresh, BPF_EXIST);
	return bpf_map_delete_elem(&handovers, &lock); /* the verifier wants a number */
}

/* Each bit of x in each bit of the result: two rounds, for one moves bits up only. */
static __always_inline __u32 mixed(__u64 x)
{
	x *= 0x9e3779b97f4a7c15ULL;
	x = (x ^ x >> 32) * 0x9e3779b97f4a7c15ULL;
	return x >> 32;
}

static __always_inline __u32 destination_hash(const struct endpoint *asked, __u64 netns, __u32 nth)
{
	return mixed(asked->ip.half[0] ^ asked->ip.half[1] ^ (__u64)asked->port << 16 ^
		     netns << 32 ^ nth);
}

static __always_inline bool is_for(const struct destination *found, const struct endpoint *asked,
				   __u64 netns)
{
	return found->netns == netns && found->asked.port == asked->port &&
	       addr_equal(&found->asked.ip, &asked->ip);
}

/* Two numbers in an argument, for a global function has five at most. */
#define WITH(low, high) ((low) | (__u64)(high) << 32)

/*
 * Whether a number is, or is made, that of a destination: as in destination_number(),
 * with the number 32 bits above the port. Global, as netns.h's walks are.
 */
WALK int is_number_for(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u64 port_number,
		       __u64 client)
{
	struct destination fresh = {
		.asked = { { .half = { ip0, ip1 } }, port_number },
		.netns = socket_netns_id(ctx),
		.net = (__u64)socket_net(ctx),
		.number = port_number >> 32,
	};
	struct number_key key = { .client = client, .number = port_number >> 32 };
	struct destination *found = bpf_map_lookup_elem(&destinations, &key);

	if (!found || (found->netns != fresh.netns &&
		       !netns_is_alive((struct net *)found->net, found->netns))) {
		if (found)
			overwrite(&key, &fresh);
		else /* another CPU may be first, and for the same destination */
			bpf_map_update_elem(&destinations, &key, &fresh, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&destinations, &key);
	}
	return found && is_for(found, &fresh.asked, fresh.netns);
}

/*
 * The number, plus one, of a destination (its address in two halves, and port)
 * dialled in the netns of the context's socket; a new one if need be. 0: its places
 * are taken, or the map is full. client is that of struct number_key, nth is 0 for
 * the first number of a destination. Global, as netns.h's walks are.
 */
WALK __u32 destination_number(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u32 port_nth,
			      __u64 client)
{
	struct endpoint asked = { { .half = { ip0, ip1 } }, port_nth };
	__u32 hash = destination_hash(&asked, socket_netns_id(ctx), port_nth >> 16), number;

	for (int i = 0; i < NUMBER_TRIES; i++) {
		number = (hash + i) % (client ? NODE_NUMBERS : IN_POD_NUMBERS);
		if (is_number_for(ctx, ip0, ip1, WITH(asked.port, number), client))
			return number + 1;
	}
	count(STAT_DESTINATIONS_FULL);
	return 0;
}

/*
 * Node mode: the port of a client's number, for the listener of an enum
 * listener_role; 0: the number is gone. Global, as netns.h's walks are.
 */
WALK __u32 number_to_port(__u64 client, __u32 number, __u32 role)
{
	struct number_key key = { .client = client, .number = number };
	struct destination *found = bpf_map_lookup_elem(&destinations, &key);

	if (!found)
		return 0;
	if (found->role != role)
		found->role = role;
	return FIRST_PORT + number;
}

/* In-pod mode: the address for a connection to a destination; LENT_NET: lend one. */
static __always_inline __be32 destination_to_ip(struct bpf_sock_addr *ctx, const union addr *ip,
						__u16 port)
{
	__u32 number = destination_number(ctx, ip->half[0], ip->half[1], port, 0);
	__u32 lot = bpf_get_prandom_u32() >> (32 - LOT_BITS);

	return bpf_htonl(number ? NUMBERED_NET | (number - 1) << LOT_BITS | lot : LENT_NET);
}

/* How many numbers a destination has, by how often it was dialled. */
static __always_inline __u32 numbers_for(__u32 dials)
{
	__u32 numbers = dials / DIALS_PER_NUMBER + 1;

	return numbers < MOST_NUMBERS ? numbers : MOST_NUMBERS;
}

/*
 * Node mode: the first number, plus one, of a destination (as above) that a client
 * has dialled before in a netns, and in the upper half which of its numbers is to be
 * used now; 0: it has not. Global, as netns.h's walks are.
 */
WALK __u32 dialled_number(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u32 port, __u64 client)
{
	__u64 netns = socket_netns_id(ctx);
	struct endpoint asked = { { .half = { ip0, ip1 } }, port };
	struct number_key key = { .client = client };
	__u32 hash = destination_hash(&asked, netns, 0);
	struct destination *found;
	__u32 nth = 0;

	for (int i = 0; i < NUMBER_TRIES; i++) {
		key.number = (hash + i) % NODE_NUMBERS;
		found = bpf_map_lookup_elem(&destinations, &key);
		if (!found)
			return 0;
		if (!is_for(found, &asked, netns))
			continue;
		__sync_fetch_and_add(&found->dials, 1);
		if (found->dials >= DIALS_PER_NUMBER)
			nth = bpf_get_prandom_u32() % numbers_for(found->dials);
		return nth << 16 | (key.number + 1);
	}
	return 0;
}

/* Whether a port is a number of that client's, in that netns. Global, as netns.h's walks. */
WALK int is_number_of(__u64 client, __u32 port, __u64 netns)
{
	const struct destination *found = port_to_destination(client, port);

	return found && found->netns == netns;
}

/* Puts a handover in; in the place of one that nobody asked for in time, if need be. */
static __noinline bool handover_put(const struct handover_key *key, const struct handover *handover)
{
	const struct handover *other;

	if (!bpf_map_update_elem(&handovers, key, handover, BPF_NOEXIST))
		return true;
	other = bpf_map_lookup_elem(&handovers, key);
	/* Of several CPUs one takes it out. */
	return other && handover->lent - other->lent > LENT_SECONDS &&
	       !bpf_map_delete_elem(&handovers, key) &&
	       !bpf_map_update_elem(&handovers, key, handover, BPF_NOEXIST);
}

static __always_inline __u16 role_port(const struct settings *cfg, __u32 role)
{
	return role == DNS     ? cfg->dns_port :
	       role == INBOUND ? cfg->inbound_port :
				 cfg->outbound_port;
}

#define LEND_IN_POD (1 << 24)

/* Whether a number, 32 bits above, can be lent: as in lend(). Global, as netns.h's walks. */
WALK int can_lend(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u64 port_role_number,
		  __u64 client)
{
	struct handover handover = {
		.asked = { { .half = { ip0, ip1 } }, port_role_number },
		.role = port_role_number >> 16 & 0xff,
		.lent = bpf_ktime_get_ns() / 1000000000,
	};
	const struct settings *cfg = current_settings();
	__u32 number = port_role_number >> 32;
	struct handover_key key;
	struct dialled *dialled;

	if (!cfg)
		return 0;
	dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!dialled)
		return 0;
	dialled->asked = handover.asked;
	if (port_role_number & LEND_IN_POD) {
		dialled->given.ip = addr_from_v4(bpf_htonl(number));
		dialled->given.port = role_port(cfg, handover.role);
		key = lent_key(dialled->given.ip.half[1], socket_netns_id(ctx),
			       dialled->given.port);
	} else {
		dialled->given.ip = cfg->ztunnel[addr_family(&handover.asked.ip)];
		dialled->given.port = number;
		key = lent_key(client, 0, number);
	}
	dialled->handover = key;
	return handover_put(&key, &handover);
}

/*
 * Lends a number to the one connection that the context's socket is to make, to a
 * destination (its address in two halves, and port, with an enum listener_role 16
 * bits above), and keeps it with the socket. In node mode client is that of struct
 * number_key, 0 for a node program and for strangers. With LEND_IN_POD in port_role,
 * for the settings may be others by now, it returns the address, in host byte order;
 * else the port; 0: none is free. Global, as netns.h's walks are.
 */
WALK __u32 lend(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u32 port_role, __u64 client)
{
	__u32 first = FIRST_STRANGERS_PORT, several = 65536 - FIRST_STRANGERS_PORT, number;

	if (port_role & LEND_IN_POD)
		first = LENT_NET, several = LENT_AT_ONCE;
	else if (client || (port_role >> 16 & 0xff) == INBOUND)
		first = FIRST_LENT_PORT, several = FIRST_STRANGERS_PORT - FIRST_LENT_PORT;
	for (int i = 0; i < NUMBER_TRIES; i++) {
		number = first + bpf_get_prandom_u32() % several;
		if (can_lend(ctx, ip0, ip1, WITH(port_role, number), client))
			return number;
	}
	count(STAT_HANDOVERS_FULL);
	return 0;
}

#endif
