/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Original destinations by number. Where many addresses or ports lead to ztunnel,
 * the rewritten one carries a number, and so the destination itself: connect needs
 * no storage, sockops hands nothing over, and getsockopt and getpeername read it
 * from the socket's own addresses.
 *
 *   in-pod mode, IPv4   127.128.0.0/9: 16 bits of number, 7 bits of lot
 *   node mode           ports from 32768 on, where sk_lookup can be in ztunnel's netns
 *
 * A number stands for one destination dialled in one netns (and in node mode from
 * one address) for as long as the netns lives: no connection finds another's, nor
 * does a pod learn whom its neighbours dial. (Before 5.12 a netns has no number of
 * its own: a later one may get its struct net, and then has its numbers.)
 *
 * When the places for a new destination are taken, and for node programs, which
 * have many addresses, a number is lent to one connection: sockops takes it back
 * when the proxy has the connection. That costs time only.
 *
 * A pod may begin connections that come to nothing, from any address that it thinks
 * of, also in netns of its own. So numbers are for pod addresses alone; to all other
 * ones together few are lent. No pod can keep more than its share from others.
 */
#ifndef ONRAMP_NUMBERS_H
#define ONRAMP_NUMBERS_H

#include "addr.h"
#include "maps.h"
#include "netns.h"

/* In-pod mode, in host byte order. */
#define IN_POD_NUMBERS 65536
#define NUMBERED_NET 0x7f800000 /* 127.128.0.0/9 */
#define LENT_NET 0x7f400000	/* 127.64.0.0/10 */
#define LENT_NET_BITS 22
#define LENT_AT_ONCE 8192 /* in one netns: from the first of these on */
#define LOT_BITS 7	  /* so that the ports to one destination do not run out */

/* Node mode: ports. */
#define FIRST_PORT 32768
#define NODE_NUMBERS 24576
#define FIRST_LENT_PORT (FIRST_PORT + NODE_NUMBERS) /* to a pod address, to node programs */
#define FIRST_STRANGERS_PORT 63488		    /* to pods' other addresses; up to 65535 */

static __always_inline bool ip_is_numbered(__be32 ip)
{
	return bpf_ntohl(ip) >> 23 == NUMBERED_NET >> 23;
}

static __always_inline bool addr_is_numbered(const union addr *ip)
{
	return addr_is_v4(ip) && ip_is_numbered(ip->word[3]);
}

static __always_inline bool addr_is_lent(const union addr *ip)
{
	return addr_is_v4(ip) &&
	       bpf_ntohl(ip->word[3]) >> LENT_NET_BITS == LENT_NET >> LENT_NET_BITS;
}

static __always_inline bool port_is_numbered(__u32 port)
{
	return port >= FIRST_PORT && port < FIRST_LENT_PORT;
}

/* In-pod mode: what an address stands for in the netns of the context's socket. */
static __always_inline const struct endpoint *ip_to_destination(const void *ctx, __be32 ip)
{
	struct number_key key = { .number = (bpf_ntohl(ip) - NUMBERED_NET) >> LOT_BITS };
	const struct destination *found;

	if (!ip_is_numbered(ip))
		return NULL;
	found = bpf_map_lookup_elem(&destinations, &key);
	if (!found || found->netns != socket_netns_id(ctx))
		return NULL;
	return &found->asked;
}

/*
 * A client's address as one number: of an IPv4 address the half that counts. Two
 * IPv6 addresses may have the same: then the second finds its places taken.
 */
static __always_inline __u64 client_of(const union addr *ip)
{
	return ip->half[0] * 0x9e3779b97f4a7c15ULL ^ ip->half[1];
}

/* Whether the context's socket is in the netns that has sk_lookup. */
static __always_inline bool netns_is_ztunnels(const void *ctx, const struct settings *cfg)
{
	return BPF_CORE_READ(socket_net(ctx), ns.inum) == cfg->ztunnel_netns;
}

/* Node mode: what a port of ztunnel's stands for when it is a client's peer. */
static __always_inline const struct destination *port_to_destination(__u64 client, __u32 port)
{
	struct number_key key = { .client = client, .number = port - FIRST_PORT };

	return port_is_numbered(port) ? bpf_map_lookup_elem(&destinations, &key) : NULL;
}

/*
 * The key of a number that was lent: in in-pod mode client is the half that counts
 * of the proxy's address, in node mode as above.
 */
static __always_inline struct handover_key lent_key(__u64 client, __u64 netns, __u32 proxy_port)
{
	return (struct handover_key){ { .half = { 0, client } }, netns, 0, 0, proxy_port };
}

/* Node mode: the handover of a port that was lent to client, and the key of it. */
static __always_inline struct handover *port_to_handover(const union addr *client, __u32 port,
							 struct handover_key *key)
{
	struct handover *handover;

	if (port < FIRST_STRANGERS_PORT) {
		*key = lent_key(client_of(client), 0, port);
		handover = bpf_map_lookup_elem(&handovers, key);
		if (handover || bpf_map_lookup_elem(&pod_ips, client))
			return handover;
	}
	*key = lent_key(0, 0, port); /* to a node program, or a stranger */
	return bpf_map_lookup_elem(&handovers, key);
}

/* Which of ztunnel's listeners listens on a port; negative: none. */
static __always_inline int listener_role(const struct settings *cfg, __u32 port)
{
	if (port == cfg->outbound_port)
		return OUTBOUND;
	if (port == cfg->inbound_port)
		return INBOUND;
	return port == cfg->dns_port ? DNS : -1;
}

#endif
