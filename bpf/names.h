/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The names of redirected connections, for getpeername (which accept() asks too),
 * getsockname and recvmsg: each side sees whom it would see without onramp.
 */
#ifndef ONRAMP_NAMES_H
#define ONRAMP_NAMES_H

#include "in_pod.h"
#include "verdict.h"

/*
 * A client's socket without a number: what it dialled, or NULL: it was not redirected,
 * or its peer (seen, ctx->user_port) is another than where onramp sent it.
 */
static __always_inline const struct endpoint *dialled_by_socket(struct bpf_sock_addr *ctx,
								const union addr *seen)
{
	const struct dialled *dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);

	if (!dialled || dialled->given.port != bpf_ntohs(ctx->user_port) ||
	    !addr_equal(&dialled->given.ip, seen))
		return NULL;
	return &dialled->asked;
}

/* Whether that peer, at a port in network byte order, is ztunnel by a number. */
static __always_inline bool is_number(const union addr *peer, __be16 port)
{
	return addr_is_v4(peer) && ip_is_numbered(peer->word[3]) &&
	       is_port_of(OUTBOUND, bpf_ntohs(port));
}

/*
 * In-pod mode, a client whose peer is the number `seen`, at a port in network byte order:
 * what it dialled. The number may stand for another destination by now, if the connection
 * is an old one: ztunnel's end knows better, for as long as it is there.
 */
static __always_inline bool dialled_by_number(struct bpf_sock_addr *ctx, const union addr *seen,
					      __be16 port, struct endpoint *to)
{
	struct bpf_sock *sk = other_end(ctx, seen, port);
	struct endpoint *kept;

	if (sk) {
		kept = bpf_sk_storage_get(&original_dst, sk, NULL, 0);
		if (kept)
			*to = *kept;
		bpf_sk_release(sk);
		if (kept)
			return true;
	}
	return number_read(name_netns_id(ctx), seen->word[3], to, false);
}

/* The same from the client's own socket, where there is no number: ztunnel's end asks. */
static __always_inline bool asked_by_other_end(struct bpf_sock_addr *ctx, const union addr *seen,
					       struct endpoint *to)
{
	struct bpf_sock *sk = other_end(ctx, seen, ctx->user_port);
	struct dialled *dialled;

	if (!sk)
		return false;
	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (sk->state == BPF_TCP_LISTEN)
		dialled = NULL; /* of an earlier life */
	if (dialled)
		*to = dialled->asked;
	bpf_sk_release(sk);
	return dialled;
}

/*
 * In-pod mode, a socket that ztunnel accepted from `seen`: keeps with it where the
 * client wanted to go. False: that is not known, or it is no such socket.
 */
static __always_inline bool accepted_keep(struct bpf_sock_addr *ctx, const union addr *seen,
					  struct endpoint *to)
{
	struct endpoint *kept = bpf_sk_storage_get(&original_dst, ctx->sk, NULL, 0);
	bool is;

	if (kept) {
		*to = *kept;
		return true;
	}
	if (addr_is_v4(seen) && ip_is_numbered(ctx->sk->src_ip4) &&
	    ctx->sk->src_ip4 != bpf_htonl(NUMBERED_NET))
		is = number_read(name_netns_id(ctx), ctx->sk->src_ip4, to, true);
	else
		is = asked_by_other_end(ctx, seen, to);
	if (!is || !bpf_sk_storage_get(&original_dst, ctx->sk, to, BPF_SK_STORAGE_GET_F_CREATE))
		return false;
	count(STAT_HANDED_OVER);
	return true;
}

/* Fills now, which must be zeroed, with the context's socket's netns. */
static __always_inline void socket_netns_know(struct bpf_sock_addr *ctx, struct netns_info *now)
{
	__u64 net = (__u64)socket_net(ctx);

	if (!netns_cached(&net, now) || !socket_is_in(ctx, now))
		netns_know((struct net *)net, now);
}

/* The pod's address, in the family of ip, which it takes the place of. */
static __always_inline void pod_addr_show(struct bpf_sock_addr *ctx, bool v4,
					  const struct netns_info *pod, const union addr *ip)
{
	union addr own = pod->ip[addr_family(ip)];

	if (!addr_is_zero(&own) && (!v4 || addr_is_v4(&own)))
		name_write(ctx, v4, &own);
}

/* Whether it may be ztunnel's end of a connection to an app: see bind.h. */
static __always_inline bool may_be_ztunnel(struct bpf_sock_addr *ctx, const union addr *seen)
{
	if (addr_is_v4(seen))
		return ip_is_source(seen->word[3]);
	return seen->word[0] == ctx->sk->src_ip6[0] && seen->word[1] == ctx->sk->src_ip6[1] &&
	       seen->word[2] == ctx->sk->src_ip6[2] && seen->word[3] == ctx->sk->src_ip6[3];
}

/*
 * In-pod mode, the app's end of a connection of ztunnel's: shows whom ztunnel stands for,
 * and keeps it, for ztunnel's end may go first. Where that is not known it shows the pod
 * itself, and never loopback: but for who is there, and no ztunnel, in the pod itself.
 * Where there is no ztunnel, in the node's netns say, loopback is what it says.
 */
static __always_inline void client_show(struct bpf_sock_addr *ctx, bool v4, const union addr *seen)
{
	union addr *client = bpf_sk_storage_get(&clients, ctx->sk, NULL, 0), ip = {};
	struct netns_info now = {};
	bool is_own = false;
	struct bpf_sock *sk;

	if (client) {
		name_write(ctx, v4, client);
		return;
	}
	sk = other_end(ctx, seen, ctx->user_port);
	if (sk) {
		client = bpf_sk_storage_get(&clients, sk, NULL, 0);
		if (client)
			ip = *client;
		is_own = sk->state != BPF_TCP_LISTEN; /* else of another, on its port */
		bpf_sk_release(sk);
	}
	if (!addr_is_zero(&ip)) {
		bpf_sk_storage_get(&clients, ctx->sk, &ip, BPF_SK_STORAGE_GET_F_CREATE);
		name_write(ctx, v4, &ip);
	} else if (addr_is_v4(seen) && !is_own) {
		socket_netns_know(ctx, &now);
		if (is_in(pod_word(&now)))
			pod_addr_show(ctx, v4, &now, seen);
	}
}

/* getpeername and accept(): v4 tells which of the two programs runs. */
static __always_inline int peer_show(struct bpf_sock_addr *ctx, bool v4)
{
	union addr seen = name_read(ctx, v4);
	const struct endpoint *asked;
	struct netns_info now = {};
	struct endpoint to;

	if (ctx->type == SOCK_STREAM && is_port_of(OUTBOUND, ctx->sk->src_port)) {
		if (accepted_keep(ctx, &seen, &to) && addr_stays_here(&seen)) {
			socket_netns_know(ctx, &now);
			pod_addr_show(ctx, v4, &now, &to.ip);
		}
		return 1;
	}
	asked = dialled_by_socket(ctx, &seen);
	if (!asked && ctx->type == SOCK_STREAM && may_be_ztunnel(ctx, &seen) && is_in_pod_mode()) {
		client_show(ctx, v4, &seen);
		return 1;
	}
	if (asked) {
		to = *asked;
	} else if (!is_number(&seen, ctx->user_port) ||
		   !dialled_by_number(ctx, &seen, ctx->user_port, &to)) {
		return 1;
	}
	name_write(ctx, v4, &to.ip);
	ctx->user_port = bpf_htons(to.port);
	return 1; /* it cannot be refused */
}

/* recvmsg, likewise: an answer to a captured DNS query. */
static __always_inline int sender_show(struct bpf_sock_addr *ctx, bool v4)
{
	union addr seen = name_read(ctx, v4);
	const struct endpoint *asked = dialled_by_socket(ctx, &seen);

	if (asked) {
		name_write(ctx, v4, &asked->ip);
		ctx->user_port = bpf_htons(asked->port);
	}
	return 1;
}

/*
 * getsockname in in-pod mode, likewise: a redirected client's own address is loopback,
 * and it sees its pod's. One that it has bound itself stays.
 */
static __always_inline int own_show(struct bpf_sock_addr *ctx, bool v4)
{
	union addr own = name_read(ctx, v4), peer = addr_from_v4(ctx->sk->dst_ip4);
	const struct dialled *dialled;
	struct netns_info now = {};
	struct endpoint to = {};
	bool known = true;

	if (!addr_is_loopback(&own))
		return 1;
	dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);
	if (dialled && dialled->given.port == bpf_ntohs(ctx->sk->dst_port))
		to.ip = dialled->asked.ip;
	else if (addr_is_v4(&own) && is_number(&peer, ctx->sk->dst_port))
		known = dialled_by_number(ctx, &peer, ctx->sk->dst_port, &to);
	else
		return 1;
	socket_netns_know(ctx, &now);
	if (!known && !is_in(pod_word(&now)))
		return 1; /* where there is no ztunnel it is what it says */
	if (!known)
		to.ip = own;
	pod_addr_show(ctx, v4, &now, &to.ip);
	return 1;
}

#endif
