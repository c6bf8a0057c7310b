// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sk_lookup, in ztunnel's netns, node mode: redirected connections come to many
 * ports, by which they are known (see numbers.h), and all are led to the one
 * listener that they are for. Runs for each new connection and each datagram to
 * this netns; what has no number goes the kernel's own way.
 */
#include "numbers.h"

SEC("sk_lookup")
int lookup(struct bpf_sk_lookup *ctx)
{
	union addr client = { .word = { ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
					ctx->remote_ip6[3] } };
	bool v6 = ctx->family == AF_INET6;
	__u32 port = ctx->local_port, role = LISTENER_ROLES;
	const struct destination *destination;
	const struct handover *handover = NULL;
	struct handover_key key;
	struct bpf_sock *sk;

	if (ctx->protocol != IPPROTO_TCP || port < FIRST_PORT)
		return SK_PASS;
	if (!v6)
		client = addr_from_v4(ctx->remote_ip4);
	if (port_is_numbered(port)) {
		destination = port_to_destination(client_of(&client), port);
		if (destination)
			role = destination->role;
	} else {
		handover = port_to_handover(&client, port, &key);
		if (handover)
			role = handover->role;
	}
	if (role >= LISTENER_ROLES)
		return SK_PASS;
	role = role * FAMILIES + v6;
	sk = bpf_map_lookup_elem(&proxy_sockets, &role);
	if (sk) {
		bpf_sk_assign(ctx, sk, 0);
		bpf_sk_release(sk);
	} else if (handover) {
		bpf_map_delete_elem(&handovers, &key); /* it will be refused */
	}
	return SK_PASS;
}
