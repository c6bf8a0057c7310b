/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What bind4 and bind6 share: ztunnel binds its connections to apps to the client's
 * address (IP_TRANSPARENT), so that the app sees it, and the answers would go astray.
 *
 * In-pod mode: the address is kept with the socket, for the app's getpeername, and one
 * of 256 in 127.64.0.0/10 bound instead. bind() chooses the port there and then: of one
 * address a pod would have 28,232, each taken for a minute after. IPv6 has no such
 * range. Node mode: any address, and the app sees ztunnel.
 */
#ifndef ONRAMP_BIND_H
#define ONRAMP_BIND_H

#include "names.h"

#define SOURCES 256

/*
 * Of ztunnel's binds those are to a client's address that leave the port to the kernel,
 * and name neither loopback, nor any address, nor one of the netns' own.
 */
static __always_inline bool is_clients(struct bpf_sock_addr *ctx, const struct settings *cfg,
				       const union addr *ip)
{
	if (ctx->user_port || ctx->type != SOCK_STREAM || addr_stays_here(ip))
		return false;
	if (!task_is_ztunnels() && !netns_is_ztunnels(cfg, name_netns_id(ctx)))
		return false;
	return !netns_has(socket_net(ctx), ip);
}

static __always_inline int bind_source(struct bpf_sock_addr *ctx, bool v4)
{
	const struct settings *cfg = current_settings();
	union addr ip = name_read(ctx, v4), source = {}, *client;

	if (!cfg || !is_clients(ctx, cfg, &ip))
		return 1;
	if (cfg->mode == IN_POD_MODE) {
		client = bpf_sk_storage_get(&clients, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!client)
			return 0; /* bind() fails, and the app sees its own pod */
		*client = ip;
		if (addr_is_v4(&ip))
			source = addr_from_v4(
				bpf_htonl(SOURCES_NET | bpf_get_prandom_u32() % SOURCES));
	} else if (addr_is_v4(&ip)) {
		source = addr_from_v4(0);
	}
	name_write(ctx, v4, &source);
	return 1;
}

#endif
