/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What BPF and userspace both know: the layouts of the maps' keys and values.
 *
 * An address is always 16 bytes in network byte order; IPv4 a.b.c.d is stored
 * as ::ffff:a.b.c.d, so that one key and one rule table serve both families.
 * All else is in host byte order.
 */
#ifndef ONRAMP_H
#define ONRAMP_H

#include <linux/types.h>

union addr {
	__u8 byte[16];
	__be32 word[4];
	__u64 half[2]; /* for comparing; no meaning as a number */
};

enum family { V4, V6, FAMILIES };

struct endpoint {
	union addr ip;
	__u16 port;
	__u16 pad[3];
};

/* ztunnel's. */
#define OUTBOUND_PORT 15001
#define INBOUND_PORT 15006
#define DNS_CAPTURE_PORT 15053
#define ZTUNNEL_PORTS                                                                              \
	.outbound_port = OUTBOUND_PORT, .inbound_port = INBOUND_PORT, .dns_port = DNS_CAPTURE_PORT

/* settings: key 0. No entry, or no ztunnel address: everything passes. */
struct settings {
	union addr ztunnel[FAMILIES]; /* all zero: none; loopback: in-pod mode */
	__u64 ztunnel_cgroup;	      /* id; 0: the pod that holds ztunnel's address */
	__u64 root_cgroup;	      /* id; tasks outside go unrecorded; 0: all count */
	__u32 node_netns;	      /* inode of nsfs; 0: the initial netns */
	__u32 flags;
	__u16 outbound_port; /* OUTBOUND_PORT and so on */
	__u16 inbound_port;
	__u16 dns_port;
	__u16 pad;
	__u32 ztunnel_netns; /* inode; 0: it is reached by outbound_port etc. alone */
	__u32 pad2;
};

enum settings_flag {
	NO_HOST_CAPTURE = 1 << 0, /* leave node programs' traffic alone */
	DNS_CAPTURE = 1 << 1,	  /* port 53 goes to dns_port */
};

/* mesh_rules and bypass_rules: longest prefix wins. */
struct prefix {
	__u32 length; /* bits of ip that count, 0 to 128; IPv4 /n is 96 + n */
	union addr ip;
} __attribute__((packed, aligned(4)));

enum rule { RULE_IN = 1, RULE_OUT = 2, RULE_BYPASS = 3 }; /* __u32 values */

/* What is known of a netns, and since when. */
struct netns_info {
	__u64 netns;  /* cookie; before 5.12 the address of its struct net */
	__u32 inum;   /* inode of nsfs */
	__u32 gen[3]; /* of devices, IPv4 and IPv6 addresses: see kernel.h */
	__u32 flags;
	__u32 pad;
	union addr ip[FAMILIES]; /* pod address; all zero: none */
};

enum netns_flag {
	NETNS_INITIAL = 1 << 0, /* the one the machine booted with */
	NETNS_MORE_V4 = 1 << 1, /* holds further addresses of the family: */
	NETNS_MORE_V6 = 1 << 2, /* "is it my own?" has to ask the devices */
	NETNS_DOUBT = 1 << 3,	/* more devices or addresses than were read */
	NETNS_REUSED = 1 << 4,	/* .netns may come again: read afresh each time */
};

/*
 * cgroup_info_map: cgroup id -> the netns of its last exec or connect(), and
 * its home: the pod that the cgroup keeps in pod_ips until it is removed or
 * runs something in the node netns.
 */
struct cgroup_info {
	struct netns_info now;
	__u64 home; /* as netns_info.netns; 0: none */
	union addr home_ip[FAMILIES];
	__u64 outside; /* settings.ztunnel_cgroup, which it is not within; 0: not known */
};

/* pod_ips: pod address -> the pod that holds it. */
struct pod {
	__u64 netns;   /* as in netns_info */
	__u64 net;     /* address of its struct net, to ask it again */
	__u32 cgroups; /* how many have this pod as their home */
	__u32 numbers; /* 0: it has had none; see numbers.h */
};

/* Those of ztunnel's listeners that redirected connections are for. */
enum listener_role { OUTBOUND, INBOUND, DNS, LISTENER_ROLES };

/*
 * handovers: a redirected handshake under way -> where it wanted to go. The
 * initial sequence number makes the key this very connection's: neither a
 * reused 4-tuple, nor another netns with the same addresses, nor a pod that
 * borrows its neighbour's address can find or replace it. A number that is lent
 * to one connection (numbers.h) is as good; isn and client_port are 0 then.
 */
struct handover_key {
	union addr client;
	__u64 netns; /* in-pod mode: of both sockets; else they differ, and it is 0 */
	__u32 isn;   /* client's initial sequence number */
	__u16 client_port;
	__u16 proxy_port;
};

struct handover {
	struct endpoint asked;
	__u32 role; /* enum listener_role */
	__u32 lent; /* when a number was lent: seconds since boot; else 0 */
};

/*
 * ztunnel_listeners: how many sockets of a ztunnel's listen on the outbound port
 * in a netns. None: no such entry, or all zero.
 */
struct listeners_key {
	__u64 netns;   /* as in netns_info */
	__u64 ztunnel; /* id of its cgroup: another one is another ztunnel */
};

struct listeners {
	__s32 all_v4;	/* on all IPv4 addresses: of 127/8 each will do */
	__s32 local_v4; /* on one of 127/8 */
	__s32 v6;	/* on ::1, or on all */
	__u32 pad;
};

/* Storage of such a socket: what it was counted as. */
struct listener {
	struct listeners_key key;
	__u32 kinds; /* bits of enum listener_kind */
	__u32 pad;
};

enum listener_kind { LISTENS_ALL_V4 = 1, LISTENS_LOCAL_V4 = 2, LISTENS_V6 = 4 };
#define LISTENS_V4 (LISTENS_ALL_V4 | LISTENS_LOCAL_V4)

/* destinations: a number, and whose it is -> an original destination. */
struct number_key {
	__u64 client; /* node mode: its address, see client_of(); in-pod mode: 0 */
	__u32 number;
	__u32 pad;
};

struct destination {
	struct endpoint asked;
	__u64 netns;  /* where it was dialled, as in struct pod */
	__u64 net;    /* the same */
	__u32 dials;  /* by this number */
	__u16 number; /* as in the key */
	__u16 role;   /* enum listener_role */
};

/* judged: a connect() that had a verdict, by the socket's cookie. */
struct judged {
	__u64 cookie; /* 0: none */
	__u32 port;   /* where it was redirected to; 0: not at all */
	__u32 old;    /* another may take its place: it has been read, or passed over once */
	union addr ip;
};

/* Storage of a redirected client's socket. */
struct dialled {
	struct endpoint asked;	      /* what connect() was called with */
	struct endpoint given;	      /* where the connection really goes */
	struct handover_key handover; /* isn 0 and ports 0: none made */
};

/* stats: CPU number modulo STATS_CPUS -> counters. */
enum counter {
	STAT_OUTBOUND,		/* redirected: pod to ztunnel's outbound port */
	STAT_DNS,		/* redirected: pod to ztunnel's DNS port */
	STAT_INBOUND,		/* redirected: node program to the inbound port */
	STAT_QUERY,		/* DNS queries by UDP to ztunnel's DNS port */
	STAT_QUERY_REFUSED,	/* the same, without a ztunnel address */
	STAT_REFUSED,		/* no ztunnel address for the family */
	STAT_NO_ZTUNNEL,	/* passed: verdict 1 */
	STAT_ZTUNNEL,		/* passed: verdict 2 */
	STAT_LOCAL,		/* passed: verdict 3, not a remote address */
	STAT_BYPASSED,		/* passed: verdict 3, bypass_rules */
	STAT_NOT_ENROLLED,	/* passed: verdict 8, a pod */
	STAT_NODE,		/* passed: verdict 8, a node program */
	STAT_CACHE_MISS,	/* connects that had to read the netns' devices */
	STAT_DOUBT,		/* netns with more devices or addresses than read */
	STAT_CGROUPS_FULL,	/* cgroup_info_map had no room */
	STAT_PODS_FULL,		/* pod_ips had no room */
	STAT_HANDOVERS_FULL,	/* handovers had no room: proxy gets ENOENT */
	STAT_HANDED_OVER,	/* original destinations that reached the proxy */
	STAT_NO_HANDOVER,	/* proxy accepted what onramp did not redirect */
	STAT_DESTINATIONS_FULL, /* destinations had no room: handed over instead */
	STAT_ESCAPED,		/* connections of enrolled pods without a verdict */
	STAT_LISTENERS_FULL,	/* ztunnel_listeners had no room: sought by connect() */
	STATS,			/* new ones go just above: the map outlives upgrades */
};

#define STATS_CPUS 128

struct stats {
	__u64 count[(STATS + 7) / 8 * 8]; /* whole cache lines per CPU */
};

_Static_assert(sizeof(union addr) == 16, "union addr is a map key");
_Static_assert(sizeof(struct endpoint) == 24, "struct endpoint has no holes");
_Static_assert(sizeof(struct settings) == 72, "scripts write struct settings");
_Static_assert(sizeof(struct prefix) == 20, "struct prefix is an LPM key");
_Static_assert(sizeof(struct netns_info) == 64, "netns_info is a cache line");
_Static_assert(sizeof(struct cgroup_info) == 112, "cgroup_info has no holes");
_Static_assert(sizeof(struct pod) == 24, "struct pod has no holes");
_Static_assert(sizeof(struct handover_key) == 32, "handover_key has no holes");
_Static_assert(sizeof(struct listeners) == 16, "struct listeners has no holes");
_Static_assert(sizeof(struct listener) == 24, "struct listener has no holes");
_Static_assert(sizeof(struct handover) == 32, "struct handover has no holes");
_Static_assert(sizeof(struct number_key) == 16, "struct number_key has no holes");
_Static_assert(sizeof(struct destination) == 48, "destination has no holes");
_Static_assert(sizeof(struct judged) == 32, "struct judged has no holes");
_Static_assert(sizeof(struct dialled) == 80, "struct dialled has no holes");
_Static_assert(sizeof(struct stats) % 64 == 0, "one CPU's lines are its own");

#endif
