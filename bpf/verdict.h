/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The verdict of connect(), for both families: the contract's table in order,
 * one comment per line of it.
 */
#ifndef ONRAMP_VERDICT_H
#define ONRAMP_VERDICT_H

#include "enrolment.h"
#include "numbering.h"
#include "pods.h"

enum hook { CONNECT, SENDMSG };

#define ALLOW 1	 /* let the next program decide */
#define REFUSE 0 /* connect() fails with EPERM */
#define DNS_PORT 53

/* Read each time: to keep it would take room on the stack, of which there is none. */
static __always_inline bool is_tcp(const volatile struct bpf_sock_addr *ctx, enum hook hook)
{
	return hook == CONNECT && ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

/* Whether the context's socket is in that netns, and the netns as it was then. */
static __always_inline bool socket_is_in(struct bpf_sock_addr *ctx, const struct netns_info *info)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(ctx->sk);

	if (tcp && netns_has_cookie())
		return netns_same_direct(tcp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net, info);
	return netns_same(socket_net(ctx), info);
}

/*
 * The entry of the caller's cgroup, if it is of the socket's netns as it is now;
 * and which -t the cgroup is known not to be within.
 */
static __always_inline bool cache_read(struct bpf_sock_addr *ctx, struct netns_info *now,
				       __u64 *outside)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct cgroup_info *cached = bpf_map_lookup_elem(&cgroup_info_map, &id);

	if (!cached)
		return false;
	*now = cached->now;
	*outside = cached->outside;
	barrier(); /* looked at again: it may be another cgroup's by now */
	return cached->now.netns == now->netns && socket_is_in(ctx, now);
}

/*
 * Fills now with the socket's netns: from the cache of the caller's cgroup when
 * that is of this netns as it is now, else from its devices.
 */
static __always_inline void socket_netns(struct bpf_sock_addr *ctx, struct netns_info *now,
					 __u64 *outside)
{
	struct task_struct *task;
	struct net *net;

	if (cache_read(ctx, now, outside) && !(now->flags & NETNS_REUSED))
		return;
	count(STAT_CACHE_MISS);
	task = (struct task_struct *)bpf_get_current_task();
	net = socket_net(ctx);
	remember((__u64)BPF_CORE_READ(task, cgroups, dfl_cgrp), (__u64)net, (__u64)task);
	if (!cache_read(ctx, now, outside)) { /* full, or shared with another netns */
		*outside = 0;
		now->flags = netns_initial((__u64)net, (__u64)task);
		netns_read(net, now);
	}
	if (now->flags & NETNS_DOUBT)
		count(STAT_DOUBT);
}

/* Whether ip is an address of the context's socket's netns, which is now. */
static __always_inline bool is_own(struct bpf_sock_addr *ctx, const union addr *ip,
				   const struct netns_info *now)
{
	enum family family = addr_family(ip);

	if (addr_equal(ip, &now->ip[family]))
		return true;
	if (now->flags & (NETNS_MORE_V4 << family) || addr_is_link_local_v6(ip))
		return netns_has(socket_net(ctx), ip);
	return false;
}

/*
 * Whether a socket made in ztunnel's cgroup listens at ip (in two halves) and
 * port in the netns of the context's socket. Global, as netns.h's walks are.
 */
WALK int ztunnel_listens(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u32 port, __u64 ztunnel)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct bpf_sock_tuple to = {};
	struct tcp_sock *tcp;
	struct bpf_sock *sk;
	int listens = 0;

	if (addr_is_v4(&ip)) {
		to.ipv4.saddr = to.ipv4.daddr = ip.word[3];
		to.ipv4.dport = bpf_htons(port);
		sk = bpf_sk_lookup_tcp(ctx, &to, sizeof(to.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		to.ipv6.saddr[3] = to.ipv6.daddr[3] = ip.word[3]; /* ::1 */
		to.ipv6.dport = bpf_htons(port);
		sk = bpf_sk_lookup_tcp(ctx, &to, sizeof(to.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return 0;
	tcp = sk->state == BPF_TCP_LISTEN ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (tcp)
		listens = socket_is_within((struct sock *)tcp, ztunnel);
	bpf_sk_release(sk);
	return listens;
}

/*
 * ztunnel's listeners in the netns of the context's socket, as bits of enum
 * listener_kind, for the families that it has an address of: those that sockops has
 * seen begin, which no other socket can hide. Where it has seen none of those wanted,
 * some may be older than the load: then as many are sought as it takes.
 */
WALK __u32 ztunnel_listener_kinds(struct bpf_sock_addr *ctx, __u64 netns, __u32 wanted)
{
	const struct settings *cfg = current_settings();
	struct listeners_key key = { .netns = netns };
	struct listeners *here;
	__u64 v4 = bpf_cpu_to_be64(0xffff7f000001ULL), v6 = bpf_cpu_to_be64(1), any_v4;
	bool has_v4, has_v6;
	__u32 kinds = 0;

	if (!cfg)
		return 0;
	key.ztunnel = cfg->ztunnel_cgroup;
	here = bpf_map_lookup_elem(&ztunnel_listeners, &key);
	has_v4 = addr_is_loopback(&cfg->ztunnel[V4]);
	has_v6 = addr_is_loopback(&cfg->ztunnel[V6]);
	if (here && has_v4) {
		kinds |= here->all_v4 > 0 ? LISTENS_ALL_V4 : 0;
		kinds |= here->local_v4 > 0 ? LISTENS_LOCAL_V4 : 0;
	}
	if (here && has_v6)
		kinds |= here->v6 > 0 ? LISTENS_V6 : 0;
	if (kinds & wanted)
		return kinds;
	if (has_v4) {
		any_v4 = v4 + bpf_cpu_to_be64(1 << 16); /* 127.1.0.1 */
		if (ztunnel_listens(ctx, 0, any_v4, cfg->outbound_port, cfg->ztunnel_cgroup))
			kinds |= LISTENS_ALL_V4;
		else if (ztunnel_listens(ctx, 0, v4, cfg->outbound_port, cfg->ztunnel_cgroup))
			kinds |= LISTENS_LOCAL_V4;
	}
	if (has_v6 && !(kinds & wanted) &&
	    ztunnel_listens(ctx, 0, v6, cfg->outbound_port, cfg->ztunnel_cgroup))
		kinds |= LISTENS_V6;
	return kinds;
}

/*
 * In-pod mode: whether ztunnel listens in the socket's netns, and in *via where
 * a connection to `to` goes; zero: nowhere, not for its family.
 *
 * All of 127/8 leads to a listener on the wildcard address: to it goes the number
 * of the destination, but for DNS, which may be listened for at 127.0.0.1 alone and
 * whose datagrams must be answered from the one address. IPv6 has but ::1.
 */
static __always_inline bool ztunnel_is_in_pod(struct bpf_sock_addr *ctx, const struct settings *cfg,
					      __u64 netns, const struct endpoint *to,
					      union addr *via, bool dns)
{
	bool v4 = addr_is_v4(&to->ip);
	__u32 kinds = ztunnel_listener_kinds(ctx, netns, v4 ? LISTENS_V4 : LISTENS_V6);

	if (!v4)
		*via = kinds & LISTENS_V6 ? cfg->ztunnel[V6] : (union addr){};
	else if (kinds & LISTENS_ALL_V4 && !dns)
		*via = addr_from_v4(destination_to_ip(ctx, &to->ip, to->port));
	else
		*via = kinds & LISTENS_V4 ? cfg->ztunnel[V4] : (union addr){};
	return kinds != 0;
}

/* Whether the socket is bound to an address of ip's family: which, is in *bound then. */
static __always_inline bool is_bound(struct bpf_sock_addr *ctx, const union addr *ip,
				     union addr *bound)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(ctx->sk);
	const struct sock_common *sk;

	if (!tcp)
		return false;
	sk = &tcp->inet_conn.icsk_inet.sk.__sk_common;
	if (ctx->user_family == AF_INET)
		*bound = sk->skc_rcv_saddr ? addr_from_v4(sk->skc_rcv_saddr) : (union addr){};
	else
		bpf_core_read(bound, sizeof(*bound), &sk->skc_v6_rcv_saddr);
	return !addr_is_zero(bound) && addr_is_v4(bound) == addr_is_v4(ip);
}

/*
 * Gives the socket an address, in two halves, as its source, unless the program has
 * bound it itself: to an address, or by the kernel's refusal to a port. Global, as
 * netns.h's walks are.
 */
WALK int bind_to(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } }, bound = {};
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_addr.s_addr = ip.word[3] };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };

	if (addr_is_zero(&ip) || is_bound(ctx, &ip, &bound))
		return 0;
	if (ctx->user_family == AF_INET)
		return bpf_bind(ctx, (struct sockaddr *)&v4, sizeof(v4));
	__builtin_memcpy(&v6.sin6_addr, &ip, sizeof(ip));
	return bpf_bind(ctx, (struct sockaddr *)&v6, sizeof(v6));
}

/*
 * Node mode: client_of() what ztunnel will see of a connection of the socket's: the
 * address that it is bound to, else the pod's own (ip, in two halves); 0: none.
 * Where the kernel may choose among others it is bound first. Global, as netns.h's
 * walks are.
 */
WALK __u64 socket_client(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, bool others)
{
	union addr ip = { .half = { ip0, ip1 } }, bound = {};

	if (is_bound(ctx, &ip, &bound))
		return client_of(&bound);
	if (others && bind_to(ctx, ip0, ip1))
		return 0; /* it has a port: who knows which address it will get */
	return client_of(&ip);
}

/*
 * Node mode: who is to have a new number, or be lent one: client_of() the address as
 * above, if the netns is known by it. 0: a stranger. Global, as netns.h's walks are.
 */
WALK __u64 known_client(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } }, bound = {};
	struct pod *pod;

	if (is_bound(ctx, &ip, &bound))
		ip = bound;
	pod = bpf_map_lookup_elem(&pod_ips, &ip);
	if (!pod || pod->netns != socket_netns_id(ctx)) /* a hybrid node's are not known */
		return bpf_get_current_ancestor_cgroup_id(1) ? 0 : client_of(&ip);
	pod->numbers = 1;
	return client_of(&ip);
}

/* Whether the current task's cgroup is the one of that id, or below it. */
WALK int task_is_within(__u64 cgroup)
{
	for (int level = 0; level < MAX_CGROUP_LEVELS; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id || id == cgroup)
			return id != 0;
	}
	return false;
}

/* By its cgroup where that is known, else as the pod with ztunnel's address. */
static __always_inline bool is_ztunnel(const struct settings *cfg, const struct netns_info *info,
				       __u64 outside)
{
	if (cfg->ztunnel_cgroup)
		return cfg->ztunnel_cgroup != outside && task_is_within(cfg->ztunnel_cgroup);
	return is_ztunnels_pod(info);
}

/*
 * Whether an address, in two halves, is that of a pod of this node which is
 * enrolled: pod_rule() of its addresses, of which no more are read than it takes,
 * for that costs most of this. Global, as netns.h's walks are.
 */
WALK int is_local_enrolled_pod(__u64 ip0, __u64 ip1)
{
	union addr ip = { .half = { ip0, ip1 } };
	const struct pod *pod = bpf_map_lookup_elem(&pod_ips, &ip);
	enum family family = addr_family(&ip);
	int rule, other;
	__u32 flags;

	if (!pod)
		return false;
	rule = rule_at(ip0, ip1, false);
	if (rule == RULE_OUT)
		return false;
	netns_pod_addr((struct net *)pod->net, !family, &ip);
	other = addr_is_zero(&ip) ? 0 : rule_at(ip.half[0], ip.half[1], false);
	if (other == RULE_OUT || (rule != RULE_IN && other != RULE_IN))
		return false;
	netns_pod_addr((struct net *)pod->net, family, &ip);
	return ip.half[0] == ip0 && ip.half[1] == ip1 &&
	       netns_id((struct net *)pod->net, &flags) == pod->netns;
}

/*
 * Node mode: the port for a connection of a socket's, of the pod address ip, to a
 * destination. FIRST_LENT_PORT: one is to be lent, to *client.
 */
static __always_inline __u32 numbered_port(struct bpf_sock_addr *ctx, const struct endpoint *to,
					   enum listener_role role, const union addr *ip,
					   __u64 *client)
{
	__u64 ip0 = to->ip.half[0], ip1 = to->ip.half[1];
	__u32 number;

	if (!*client) {
		*client = known_client(ctx, ip->half[0], ip->half[1]);
		return FIRST_LENT_PORT;
	}
	number = dialled_number(ctx, ip0, ip1, to->port, *client);
	if (!number)
		*client = known_client(ctx, ip->half[0], ip->half[1]);
	if (*client && (!number || number >> 16))
		number =
			destination_number(ctx, ip0, ip1, to->port | (number & 0xffff0000), *client) ?:
				(number & 0xffff);
	return (number ? number_to_port(*client, number - 1, role) : 0) ?: FIRST_LENT_PORT;
}

/*
 * The table. Fills via->port, and via->ip if it is not ztunnel's address, when
 * the connection is to go there instead; LENT_NET or FIRST_LENT_PORT: where a number
 * is to be lent, to *client. Returns the line of it to count, STATS for none.
 */
static __always_inline enum counter verdict_of(struct bpf_sock_addr *ctx,
					       const struct settings *cfg,
					       const struct endpoint *to, struct endpoint *via,
					       __u64 *client, enum hook hook)
{
	struct netns_info info = {}, *now = &info;
	bool tcp = is_tcp(ctx, hook);
	enum family family = addr_family(&to->ip);
	__u64 outside = 0;
	bool in_pod, dns;

	if (!cfg || (addr_is_zero(&cfg->ztunnel[V4]) && addr_is_zero(&cfg->ztunnel[V6])))
		return STAT_NO_ZTUNNEL; /* 1 */
	if (addr_stays_here(&to->ip))
		return STAT_LOCAL; /* 3, or 2: both pass */
	socket_netns(ctx, now, &outside);
	if (is_ztunnel(cfg, now, outside))
		return STAT_ZTUNNEL; /* 2 */
	if (is_bypassed(&to->ip))
		return STAT_BYPASSED; /* 3 */

	in_pod = in_pod_mode(cfg);
	if (netns_is_node(cfg, now)) {
		if (!tcp || in_pod || cfg->flags & NO_HOST_CAPTURE ||
		    addr_is_zero(&cfg->ztunnel[family]) ||
		    !is_local_enrolled_pod(to->ip.half[0], to->ip.half[1]))
			return STAT_NODE; /* 8, or 3: a node has many devices to ask */
		if (netns_has(socket_net(ctx), &to->ip))
			return STAT_LOCAL; /* 3 */
		via->ip = cfg->ztunnel[family];
		via->port = cfg->ztunnel_netns ? FIRST_LENT_PORT : cfg->inbound_port; /* 7 */
		return STAT_INBOUND;
	}
	if (is_own(ctx, &to->ip, now))
		return STAT_LOCAL; /* 3 */
	dns = hook == SENDMSG || (to->port == DNS_PORT && cfg->flags & DNS_CAPTURE);
	if (in_pod ? pod_rule(now->ip) == RULE_OUT ||
			     !ztunnel_is_in_pod(ctx, cfg, now->netns, to, &via->ip, dns) :
		     !is_enrolled(now->ip))
		return STAT_NOT_ENROLLED;		      /* 8 */
	via->port = dns ? cfg->dns_port : cfg->outbound_port; /* 4, 5, 6 */
	if (!in_pod)
		via->ip = cfg->ztunnel[family];
	if (!tcp || addr_is_zero(&via->ip))
		;
	else if (in_pod)
		/*
		 * The route to loopback would choose loopback, and the proxy see that
		 * as the peer.
		 */
		bind_to(ctx, now->ip[family].half[0], now->ip[family].half[1]);
	else if (cfg->ztunnel_netns) {
		*client = socket_client(ctx, now->ip[family].half[0], now->ip[family].half[1],
					now->flags & (NETNS_MORE_V4 << family));
		/* Our program on a cgroup further down may have been first. */
		if (addr_equal(&to->ip, &via->ip) && is_number_of(*client, to->port, now->netns))
			return STATS;
		via->port = numbered_port(ctx, to, dns ? DNS : OUTBOUND, &now->ip[family], client);
	}
	return dns ? STAT_DNS : STAT_OUTBOUND;
}

enum before { NEVER, EARLIER, JUST_NOW };

/*
 * When the context's socket was redirected: in this very call, to ip (in two
 * halves) and port, by our program on a cgroup further down (while `load` moves
 * to another cgroup, both have one), or in an earlier life. A connect() to
 * ztunnel itself after one that sent nothing looks like the former. Global, as
 * netns.h's walks are.
 *
 * A number is known by the note, whatever settings say of it by now.
 */
WALK int redirected_before(struct bpf_sock_addr *ctx, __u64 ip0, __u64 ip1, __u32 port)
{
	const struct dialled *dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);
	union addr ip = { .half = { ip0, ip1 } };

	if (port >= FIRST_PORT && ctx->type == SOCK_STREAM) {
		__u64 cookie = bpf_get_socket_cookie(ctx);
		const struct judged *note = noted_verdict(cookie);

		if (note && note->cookie == cookie && !note->old && note->port == port &&
		    addr_equal(&note->ip, &ip))
			return JUST_NOW;
	}
	if (!dialled)
		return NEVER;
	if (ctx->type != SOCK_STREAM || dialled->handover.client_port ||
	    dialled->given.port != port || !addr_equal(&dialled->given.ip, &ip))
		return EARLIER;
	return JUST_NOW;
}

/* Tells inet_sock_set_state that the socket's connection has a verdict: given, or to pass. */
static __always_inline void note_verdict(struct bpf_sock_addr *ctx, const struct endpoint *given)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct judged *note = noted_verdict(cookie);

	if (!note)
		return;
	if (note->cookie && note->cookie != cookie && !note->old) {
		note->old = 1; /* rare: that one's SYN may be about to leave */
		return;
	}
	note->cookie = cookie;
	note->old = 0;
	note->port = given->port;
	note->ip = given->ip;
}

/* Where a number is to be lent: lends it. False: there was none. */
static __always_inline bool lend_if_need_be(struct bpf_sock_addr *ctx, const struct endpoint *asked,
					    struct endpoint *given, __u64 client,
					    enum counter counter)
{
	enum listener_role role = counter == STAT_INBOUND ? INBOUND :
				  counter == STAT_DNS	  ? DNS :
							    OUTBOUND;
	__u32 how = addr_is_lent(&given->ip) ? LEND_IN_POD : 0, number;

	if (!how && given->port < FIRST_LENT_PORT)
		return true;
	number = lend(ctx, asked->ip.half[0], asked->ip.half[1], asked->port | role << 16 | how,
		      client);
	if (number > 0xffff) /* an address */
		given->ip.word[3] = bpf_htonl(number);
	else
		given->port = number;
	return number;
}

/*
 * What connect and sendmsg do: asked is the destination. Returns the verdict;
 * given is where to go instead, or stays zero.
 */
static __always_inline int redirect(struct bpf_sock_addr *ctx, const struct endpoint *asked,
				    struct endpoint *given, enum hook hook)
{
	bool tcp = is_tcp(ctx, hook);
	const struct settings *cfg = current_settings();
	struct dialled *dialled;
	enum counter counter;
	enum before before;
	__u64 client = 0;

	if (!tcp && (ctx->type != SOCK_DGRAM || ctx->protocol != IPPROTO_UDP ||
		     asked->port != DNS_PORT || !cfg || !(cfg->flags & DNS_CAPTURE)))
		return ALLOW;
	before = redirected_before(ctx, asked->ip.half[0], asked->ip.half[1], asked->port);
	if (before == JUST_NOW)
		return ALLOW;
	counter = verdict_of(ctx, cfg, asked, given, &client, hook);
	if (counter == STATS) { /* the one with the number stays, not verdict_of()'s */
		given->port = 0;
		return ALLOW;
	}
	if (given->port && addr_is_zero(&given->ip))
		counter = STAT_REFUSED; /* ztunnel has no address of the family */
	if (is_tcp(ctx, hook))
		count(counter);
	else if (given->port)
		count(counter == STAT_REFUSED ? STAT_QUERY_REFUSED : STAT_QUERY);
	if (counter == STAT_REFUSED)
		return REFUSE;
	if (hook == CONNECT && !lend_if_need_be(ctx, asked, given, client, counter))
		return REFUSE; /* the proxy could not know the way */
	if (is_tcp(ctx, hook))
		note_verdict(ctx, given);
	if (addr_is_lent(&given->ip) || given->port >= FIRST_LENT_PORT)
		return ALLOW;
	if (!given->port || addr_is_numbered(&given->ip) || given->port >= FIRST_PORT) {
		/* The socket may have been redirected in an earlier life. */
		if (is_tcp(ctx, hook) && before)
			bpf_sk_storage_delete(&dialled_sockets, ctx->sk);
		return ALLOW;
	}
	dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!dialled)
		return REFUSE; /* no memory: likewise */
	dialled->asked = *asked;
	dialled->given = *given;
	dialled->handover = (struct handover_key){};
	return ALLOW;
}

static __always_inline int redirect4(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct endpoint given = {}, asked = {
		.ip = addr_from_v4(ctx->user_ip4),
		.port = bpf_ntohs(ctx->user_port),
	};
	int verdict = redirect(ctx, &asked, &given, hook);

	if (verdict == ALLOW && given.port) {
		ctx->user_ip4 = given.ip.word[3];
		ctx->user_port = bpf_htons(given.port);
	}
	return verdict;
}

static __always_inline int redirect6(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct endpoint given = {}, asked = {
		.ip.word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
			     ctx->user_ip6[3] },
		.port = bpf_ntohs(ctx->user_port),
	};
	int verdict = redirect(ctx, &asked, &given, hook);

	if (verdict == ALLOW && given.port) {
		ctx->user_ip6[0] = given.ip.word[0];
		ctx->user_ip6[1] = given.ip.word[1];
		ctx->user_ip6[2] = given.ip.word[2];
		ctx->user_ip6[3] = given.ip.word[3];
		ctx->user_port = bpf_htons(given.port);
	}
	return verdict;
}

#endif
