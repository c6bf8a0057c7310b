/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The third room, node mode: how the original destination crosses to ztunnel, which
 * is in another netns.
 *
 *   client   connect           keeps it with the socket: dialled_sockets
 *   client   TCP_CONNECT_CB, before the SYN leaves: writes handovers
 *   proxy    PASSIVE_ESTABLISHED_CB: moves it into the accepted socket's storage
 *   proxy    getsockopt        answers from there
 *   client   STATE_CB, closed: takes back what nobody accepted
 *
 * What is kept with a client's socket serves in-pod mode as well, where there is no
 * number (in_pod.h), and DNS.
 */
#ifndef ONRAMP_HANDOVER_H
#define ONRAMP_HANDOVER_H

#include "maps.h"
#include "netns.h"

/* Keeps with the context's socket what it dialled and where it is sent. False: it cannot. */
static __always_inline bool dialled_keep(struct bpf_sock_addr *ctx, const struct endpoint *asked,
					 const struct endpoint *given)
{
	struct dialled *dialled;

	dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!dialled)
		return false; /* no memory: a pod may see to that (TCP_MD5SIG keys) */
	dialled->asked = *asked;
	dialled->given = *given;
	dialled->handover = (struct handover_key){};
	return true;
}

/*
 * Whether the socket was sent there just now, in this very connect(), by our program on a
 * cgroup further down: while `load` moves to another cgroup, both have one. What an
 * earlier life of the socket has left is forgotten.
 */
static __always_inline bool dialled_just_now(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	const struct dialled *dialled = bpf_sk_storage_get(&dialled_sockets, ctx->sk, NULL, 0);

	if (!dialled) /* first, for to delete nothing costs more than the rest */
		return false;
	if (!dialled->handover.client_port && dialled->given.port == to->port &&
	    addr_equal(&dialled->given.ip, &to->ip))
		return true;
	bpf_sk_storage_delete(&dialled_sockets, ctx->sk);
	return false;
}

/*
 * Node mode: sends the context's socket to ztunnel's listener; a ztunnel's own, for
 * HBONE, to that at the address of its netns. False: refused.
 */
static __always_inline bool handover_carry(struct bpf_sock_addr *ctx, const struct settings *cfg,
					   enum listener listener, const struct endpoint *asked,
					   struct endpoint *given)
{
	enum family family = addr_family(&asked->ip);

	given->ip = cfg->ztunnel[family];
	given->port = cfg->port[listener];
	if (listener == HBONE)
		netns_pod_addr(socket_net(ctx), family, &given->ip);
	return !addr_is_zero(&given->ip) && dialled_keep(ctx, asked, given);
}

#endif
