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
	__u16 pad;
	__u32 scope; /* index of the device, for a link-local address; else 0 */
};

/* ztunnel's, in the order of enum listener. */
#define ZTUNNEL_PORTS                                                                              \
	{                                                                                          \
		15001, 15006, 15008, 15053                                                         \
	}

enum listener { OUTBOUND, INBOUND, HBONE, DNS, LISTENERS };

#define ZTUNNELS 4 /* known at a time: one, its successor, and those that end */

/* settings: key 0. No entry: everything passes. */
enum mode { NO_MODE, NODE_MODE, IN_POD_MODE };

struct settings {
	union addr ztunnel[FAMILIES]; /* node mode; all zero: none of the family */
	union addr next[FAMILIES];    /* of the one that takes over once it listens, or did */
	__u64 next_cgroup;	      /* id: it listens in this cgroup; 0: not known by it */
	__u64 next_netns;	      /* as netns_info.netns: or in this netns; 0: likewise */
	__u64 netns[ZTUNNELS];	      /* the same of ztunnels known by it, newest first */
	__u64 root_cgroup;	      /* id; tasks outside go unrecorded; 0: all count */
	__u32 node_netns;	      /* inode of nsfs; 0: the initial netns */
	__u32 mode;		      /* enum mode; NO_MODE: as no entry */
	__u32 flags;		      /* enum settings_flag */
	__u16 port[LISTENERS];	      /* by enum listener */
	__u32 ztunnels;		      /* a sum of all that `ztunnels` has; 0: not said */
};

enum settings_flag {
	NO_HOST_CAPTURE = 1 << 0, /* leave node programs' traffic alone */
	DNS_CAPTURE = 1 << 1,	  /* port 53 goes to the DNS listener */
	ZTUNNEL_KNOWN = 1 << 2,	  /* by its cgroup or netns: no other pod may have its address */
	STRICT = 1 << 3,	  /* a pod with a UID of which no rule speaks is refused */
	KUBELET_GIVEN = 1 << 4,	  /* `kubelets` holds those of -k, and no other */
};

/* ztunnels: id of a cgroup that is a ztunnel's, or its pod's -> which one it is. */
struct ztunnel {
	__u32 place;   /* 0 to ZTUNNELS - 1, one each */
	__u32 by_list; /* 1: by DIR/ztunnels alone, which onramp-zds takes back */
	__u64 start;   /* of its process, ns since boot; 0: not known */
};

/* mesh_pods: pod UID -> __u32 bits of enum pod_rule. */
union uid {
	__u8 byte[16]; /* as the hexadecimal digits have it */
	__be64 half[2];
};

enum pod_rule {
	POD_IN = 1 << 0,      /* the operator's word */
	POD_OUT = 1 << 1,     /* the same, and it wins */
	POD_ZDS_IN = 1 << 2,  /* onramp-zds' */
	POD_ZDS_OUT = 1 << 3, /* the same, while the pod leaves */
	POD_DNS = 1 << 4,     /* its DNS is captured, whatever settings say */
	POD_NO_DNS = 1 << 5,  /* it is not */
	POD_HAS_UID = 1 << 6, /* in the map never: a verdict's, of a pod with a UID */
};

/* pod_netns: id of a netns, as in netns_info -> whose it is. */
struct pod_netns {
	union uid uid;
	__u64 net;	  /* address of its struct net, to ask it again */
	__u32 in_transit; /* its cgroup has been in others: anybody else's claim is better */
	__u32 pad;
};

/* uid_netns: pod UID -> the netns that is its own. */
struct uid_netns {
	__u64 netns;
	__u64 net;
	__u64 cgroup; /* id of the pod's, with which it goes */
};

/* pod_events: what onramp-zds is told. */
struct pod_event {
	union uid uid;
	__u64 netns; /* its own from now on; 0: the pod is gone */
	__u32 pid;   /* of a process in it, as the machine's own pid namespace has it */
	__u32 pad;
};

/* mesh_rules and bypass_rules: longest prefix wins. */
struct prefix {
	__u32 length; /* bits of ip that count, 0 to 128; IPv4 /n is 96 + n */
	union addr ip;
} __attribute__((packed, aligned(4)));

/* Values, __u32. */
enum rule {
	RULE_IN = 1,
	RULE_OUT = 2,
	RULE_BYPASS = 3,
	RULE_V6_ONLY = 1 << 8, /* besides: the prefix has all of ::ffff:0:0/96 in it */
};

/* What is known of a netns, and since when. */
struct netns_info {
	__u64 netns;		 /* a number that no other netns has or will have: see kernel.h */
	__u32 inum;		 /* inode of nsfs */
	__u32 gen[3];		 /* of devices, IPv4 and IPv6 addresses: see kernel.h */
	__u32 flags;		 /* enum netns_flag */
	__u32 pods;		 /* of a cgroup that is no ztunnel's: see pods.h; else 0 */
	union addr ip[FAMILIES]; /* pod address; all zero: none */
};

enum netns_flag {
	NETNS_INITIAL = 1 << 0, /* the one the machine booted with */
	NETNS_MORE_V4 = 1 << 1, /* holds further addresses of the family: */
	NETNS_MORE_V6 = 1 << 2, /* "is it my own?" has to ask the devices */
	NETNS_DOUBT = 1 << 3,	/* more devices or addresses than were read */
	NETNS_HOME = 1 << 4,	/* home of the cgroup that it was read for */
	NETNS_NO_UID = 1 << 5,	/* that cgroup is no pod's that has a UID */
	NETNS_UID = 1 << 6,	/* it is one's; neither: not looked at yet */
	NETNS_MOVED = 1 << 7,	/* that cgroup has been in another netns as well */
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
};

/* homes: a netns that is some cgroup's home -> of how many, and what it was given. */
struct home {
	__u32 cgroups;
	__u32 pad;
	union addr given[FAMILIES]; /* its pod addresses at first; others it gave itself */
};

/* A netns that claims an address as its pod address. */
struct claim {
	__u64 netns;	   /* as in netns_info; 0: none */
	__u64 net;	   /* address of its struct net, to ask it again */
	__u32 is_ztunnels; /* a ztunnel runs in it */
	__u32 pad;
};

/* pod_ips: pod address -> the pod that holds it. */
struct pod_ip {
	struct claim holder;
	struct claim other; /* one that came later: see pods.h */
	__u32 cgroups;	    /* how many have the holder as their home */
	__u32 pad;
};

/*
 * handovers: a redirected handshake under way -> where it wanted to go. The
 * initial sequence number makes the key this very connection's: neither a
 * reused 4-tuple, nor another netns with the same addresses, nor a pod that
 * borrows its neighbour's address can find or replace it.
 */
struct handover_key {
	union addr client;
	__u32 isn; /* client's initial sequence number */
	__u16 client_port;
	__u16 proxy_port;
};

/*
 * numbers: a set of a netns -> what its numbers stand for. See in_pod.h.
 */
#define WAYS 8

struct number_key {
	__u64 netns; /* as in netns_info */
	__u32 set;
	__u32 pad;
};

struct way {
	union addr ip; /* the original destination; port 0: free */
	__u16 port;
	__u16 generation; /* 1 to 2046: of the number */
	__u32 scope;
	__u32 open; /* dialled, and not yet asked for */
	__u32 last; /* when it was dialled: seconds since boot */
};

/* listeners: of a ztunnel's in a netns. */
struct listener_key {
	__u64 net;	/* address of its struct net, which no listener outlives */
	__u32 listener; /* enum listener: OUTBOUND, INBOUND or HBONE */
	__u32 place;	/* of the ztunnel, as in struct ztunnel */
};

/* probes: a connection of the kubelet's, but for where it comes from. */
struct probe_key {
	union addr to;
	__u16 from_port;
	__u16 port;
	__u32 pad;
};

/*
 * What is to be known of a netns that connections arrive in. A pod's program keeps it, and
 * says it by struct arriving, while `load` puts another release's inbound_lookup behind: of
 * another meaning either has another size.
 */
struct inbound {
	__u64 net;    /* address of its struct net */
	__u32 bypass; /* inbound capture is off */
	__u32 beside; /* istio-cni's rules may be there still, or again */
};

#define SAID 8 /* lookups on one CPU, one in the middle of another */

/* arriving: that, and to whom it is said. */
struct said {
	__u64 ctx; /* address of the lookup's context; 0: free */
	struct inbound at;
};

/* Storage of a redirected client's socket. */
struct dialled {
	struct endpoint asked;	      /* what connect() was called with */
	struct endpoint given;	      /* where the connection really goes */
	struct handover_key handover; /* node mode; ports 0: none made */
};

/*
 * What becomes of a connect(): the lines of the contract's table, counted in stats.
 * The first four are the listeners of ztunnel's to go to.
 */
enum verdict {
	TO_OUTBOUND = OUTBOUND,
	TO_INBOUND = INBOUND,
	TO_HBONE = HBONE, /* ztunnel, to its own */
	TO_DNS = DNS,
	REFUSE_NO_ZTUNNEL,  /* it has no address, or another pod has it now */
	REFUSE_UNREACHABLE, /* pod or ztunnel has no address of the family */
	REFUSE_ITSELF,	    /* ztunnel would call itself */
	REFUSE_UNRULED,	    /* strict, and no rule speaks of the pod */
	REFUSE_FAILED,	    /* it was to be redirected, and then something failed */
	PASS_NO_ZTUNNEL,
	PASS_ZTUNNEL,
	PASS_LOCAL,
	PASS_BYPASSED,
	PASS_NOT_ENROLLED, /* a pod */
	PASS_NODE,	   /* a node program */
	VERDICTS,
};

/* stats: CPU number modulo STATS_CPUS -> counters: of enum verdict, and these. */
enum counter {
	STAT_QUERY = VERDICTS, /* DNS queries by UDP to ztunnel's DNS port */
	STAT_QUERY_REFUSED,    /* the same, without a ztunnel address */
	STAT_QUERY_PASSED,     /* the same, where ztunnel's DNS is off */
	STAT_CACHE_MISS,       /* connects that had to read the netns' devices */
	STAT_DOUBT,	       /* netns with more devices or addresses than read */
	STAT_CGROUPS_FULL,     /* cgroup_info_map had no room */
	STAT_PODS_FULL,	       /* pod_ips had no room */
	STAT_HANDOVERS_FULL,   /* handovers had no room: proxy gets an error */
	STAT_NUMBERS_FULL,     /* no number was free: looked up by socket instead */
	STAT_HANDED_OVER,      /* original destinations that reached the proxy */
	STAT_NOT_HANDED,       /* proxy accepted what onramp did not redirect */
	STAT_LOST,	       /* proxy asked, and the destination was not there */
	ARRIVED_OUTBOUND, /* at a pod's netns: led to ztunnel's, in the order of enum listener */
	ARRIVED_INBOUND,
	ARRIVED_HBONE,
	ARRIVED_REFUSED,     /* no listener; for loopback, or to ztunnel from outside; not said */
	ARRIVED_PROBE,	     /* passed: the kubelet's */
	ARRIVED_BYPASSED,    /* passed: inbound capture is off, or the pod is OUT */
	STAT_LISTENERS_FULL, /* listeners had no room: what arrives there is refused */
	STAT_PROBES_FULL,    /* probes had no room: captured */
	STAT_UIDS_FULL,	     /* pod_netns or uid_netns had no room: asks the cgroup each time */
	STAT_EVENTS_LOST,    /* pod_events had no room: onramp-zds looks for itself */
	STAT_ESCAPED,	     /* connections of enrolled pods without a verdict */
	STATS,		     /* new ones go just above: the map outlives upgrades */
};

#define STATS_CPUS 128

struct stats {
	__u64 count[(STATS + 7) / 8 * 8]; /* whole cache lines per CPU */
};

_Static_assert(sizeof(union addr) == 16, "union addr is a map key");
_Static_assert(sizeof(struct endpoint) == 24, "struct endpoint has no holes");
_Static_assert(sizeof(struct settings) == 144, "scripts write struct settings");
_Static_assert(sizeof(struct prefix) == 20, "struct prefix is an LPM key");
_Static_assert(sizeof(struct netns_info) == 64, "netns_info is a cache line");
_Static_assert(sizeof(struct cgroup_info) == 104, "cgroup_info has no holes");
_Static_assert(sizeof(struct home) == 40, "struct home has no holes");
_Static_assert(sizeof(struct pod_ip) == 56, "struct pod_ip has no holes");
_Static_assert(sizeof(struct listener_key) == 16, "listener_key has no holes");
_Static_assert(sizeof(struct probe_key) == 24, "probe_key has no holes");
_Static_assert(sizeof(struct pod_netns) == 32, "struct pod_netns has no holes");
_Static_assert(sizeof(struct pod_event) == 32, "struct pod_event has no holes");
_Static_assert(sizeof(struct inbound) == 16, "userspace fills struct inbound");
_Static_assert(sizeof(struct said) == 24, "struct said has no holes");
_Static_assert(sizeof(struct dialled) == 72, "struct dialled has no holes");
_Static_assert(sizeof(struct stats) % 64 == 0, "one CPU's lines are its own");

#endif
