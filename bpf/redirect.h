/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What connect and sendmsg do, for both families, through three rooms:
 *
 *   pods.h       which netns and pod the socket is in
 *   verdict.h    what becomes of it, by the contract's table
 *   in_pod.h, handover.h    how the original destination is carried to ztunnel
 */
#ifndef ONRAMP_REDIRECT_H
#define ONRAMP_REDIRECT_H

#include "in_pod.h"
#include "verdict.h"

enum hook { CONNECT, SENDMSG };

#define ALLOW 1	 /* let the next program decide */
#define REFUSE 0 /* connect() fails with EPERM */
#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25

static __always_inline bool is_tcp(const volatile struct bpf_sock_addr *ctx, enum hook hook)
{
	return hook == CONNECT && ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

/* A datagram, or UDP's connect(), that may be a DNS query. */
static __always_inline bool is_query(const volatile struct bpf_sock_addr *ctx, __u32 port)
{
	return ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP && port == DNS_PORT;
}

/* Whether ztunnel, and nobody else, listens in the context's socket's netns on a port. */
WALK int is_listened_at(struct bpf_sock_addr *ctx, __u32 port)
{
	struct bpf_sock_tuple to = {};
	struct cgroup *cgroup = NULL;
	struct sock *listener;
	struct bpf_sock *sk;

	to.ipv4.saddr = bpf_htonl(0x7f000001);
	to.ipv4.daddr = bpf_htonl(0x7f000001);
	to.ipv4.dport = bpf_htons(port);
	sk = bpf_sk_lookup_tcp(ctx, &to, sizeof(to.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	listener = (struct sock *)tcp_fields(sk);
	if (listener)
		cgroup = socket_cgroup(listener);
	bpf_sk_release(sk);
	return cgroup && ztunnel_of((__u64)cgroup) >= 0;
}

/* In-pod mode: whether ztunnel is there, and its DNS is not. */
static __always_inline bool dns_is_off(struct bpf_sock_addr *ctx, const struct settings *cfg)
{
	return cfg->mode == IN_POD_MODE && !is_listened_at(ctx, cfg->port[DNS]) &&
	       is_listened_at(ctx, cfg->port[OUTBOUND]);
}

/*
 * A socket bound to a device does not get to ztunnel by another; anybody may bind one
 * (5.7, c427bfec18f2). Where it stays bound, it would be sent to what is not ztunnel: but in
 * node mode by the device of the pod's address.
 */
WALK int is_bound_elsewhere(struct bpf_sock_addr *ctx, __u32 family)
{
	const struct settings *cfg = current_settings();
	__u32 device = ctx->sk->bound_dev_if;

	if (!device)
		return false;
	return !cfg || cfg->mode != NODE_MODE ||
	       device != netns_pod((__u64)socket_net(ctx), family, true);
}

/*
 * Whether connect() cannot have its packets go where it is sent: it has been told another
 * way for them, or stays bound, for the kernel asks the program for CAP_NET_RAW to unbind it.
 */
WALK int is_led_astray(struct bpf_sock_addr *ctx, __u32 family)
{
	char none = 0;

	if (ctx->type == SOCK_STREAM && is_source_routed(ctx->sk))
		return true;
	if (!ctx->sk->bound_dev_if ||
	    !bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, &none, sizeof(none)))
		return false;
	return is_bound_elsewhere(ctx, family);
}

/* To where the kernel itself says ENETUNREACH to TCP: the program tries the other family. */
static __always_inline void give_unreachable(const union addr *asked, struct endpoint *given)
{
	given->ip = addr_is_v4(asked) ?
			    addr_from_v4(bpf_htonl(0xffffffff)) :
			    (union addr){ .word = { bpf_htonl(0xff0e0000), 0, 0, bpf_htonl(1) } };
	given->port = 9;
}

/* The first two rooms. */
static __always_inline enum verdict judge(struct bpf_sock_addr *ctx, const struct settings *cfg,
					  struct netns_info *now, const struct endpoint *asked,
					  bool query)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct cgroup_info *entry;

	if (!cfg || cfg->mode == NO_MODE)
		return PASS_NO_ZTUNNEL; /* 1 */
	if (addr_stays_here(&asked->ip) && asked->port != cfg->port[OUTBOUND])
		return PASS_LOCAL; /* 3, or 2: both pass */
	/* First, for in in-pod mode ztunnel's sockets are in another netns each time. */
	entry = bpf_map_lookup_elem(&cgroup_info_map, &cgroup);
	if (is_ztunnels(cfg, cgroup, entry))
		return ztunnel_verdict(ctx, cfg, asked); /* 2 */
	socket_netns(ctx, cgroup, entry, now);
	return verdict_of(ctx, cfg, now, asked, query);
}

/* The third. */
static __always_inline bool carry(struct bpf_sock_addr *ctx, const struct settings *cfg,
				  enum verdict verdict, const struct netns_info *now,
				  const struct endpoint *asked, struct endpoint *given,
				  enum hook hook)
{
	enum listener listener = (enum listener)verdict;
	enum family family = addr_family(&asked->ip);

	/* A datagram by itself cannot be unbound: not before 6.0. */
	if (hook == CONNECT ? is_led_astray(ctx, family) : is_bound_elsewhere(ctx, family))
		return false; /* it would be sent to somebody else, or to nobody */
	if (cfg->mode == IN_POD_MODE)
		return in_pod_carry(ctx, cfg, listener, now, asked, given);
	return handover_carry(ctx, cfg, listener, asked, given);
}

/* A datagram: it is sent to ztunnel's DNS, or it is no business of ours. */
static __always_inline void count_query(enum verdict verdict)
{
	if (verdict == TO_DNS)
		count(STAT_QUERY);
	else if (verdict == TO_OUTBOUND)
		count(STAT_QUERY_PASSED);
	else if (verdict < PASS_NO_ZTUNNEL)
		count(STAT_QUERY_REFUSED);
}

/* asked is the destination. Returns what the hook does, and in given where to go instead. */
static __always_inline int redirect_to(struct bpf_sock_addr *ctx, const struct endpoint *asked,
				       struct endpoint *given, enum hook hook)
{
	const struct settings *cfg = current_settings();
	bool tcp = is_tcp(ctx, hook);
	struct netns_info now = {};
	enum verdict verdict;

	if (!tcp && !is_query(ctx, asked->port))
		return ALLOW;
	if (tcp && dialled_just_now(ctx, asked))
		return ALLOW;
	verdict = judge(ctx, cfg, &now, asked, !tcp);
	if (verdict == TO_DNS && cfg && dns_is_off(ctx, cfg))
		verdict = TO_OUTBOUND; /* 4: then 6 */
	if (verdict < LISTENERS && cfg && (tcp || verdict == TO_DNS) &&
	    !carry(ctx, cfg, verdict, &now, asked, given, hook))
		verdict = REFUSE_FAILED;
	if (!tcp) {
		count_query(verdict);
		return verdict < LISTENERS || verdict >= PASS_NO_ZTUNNEL ? ALLOW : REFUSE;
	}
	count(verdict);
	if (verdict < LISTENERS)
		return ALLOW;
	given->port = 0;
	if (verdict == REFUSE_UNREACHABLE)
		give_unreachable(&asked->ip, given);
	return verdict >= PASS_NO_ZTUNNEL || verdict == REFUSE_UNREACHABLE ? ALLOW : REFUSE;
}

/* v4: the program is that of IPv4. */
static __always_inline int redirect(struct bpf_sock_addr *ctx, bool v4, enum hook hook)
{
	struct endpoint given = {}, asked = {
		.ip = name_read(ctx, v4),
		.port = bpf_ntohs(ctx->user_port),
	};
	int allowed;

	if (!v4 && addr_is_link_local_v6(&asked.ip))
		asked.scope = ctx->sk->bound_dev_if ?: address_scope(ctx);
	in_memory(asked);
	allowed = redirect_to(ctx, &asked, &given, hook);
	if (allowed && given.port) {
		name_write(ctx, v4, &given.ip);
		ctx->user_port = bpf_htons(given.port);
	}
	return allowed;
}

#endif
