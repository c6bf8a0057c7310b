// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/setsockopt, on ztunnel's cgroup in in-pod mode. What it accepts on 15006 has
 * the app's port as its own (inbound.bpf.c), and would keep the app from binding that
 * port for as long as it is open, and a minute longer: unless both are SO_REUSEADDR, as
 * nearly each app's listener is. So ztunnel's IP_TRANSPARENT on that listener, which it
 * needs not for sk_lookup, becomes SO_REUSEADDR. (sockops could say so from 6.1 on.)
 */
#include "maps.h"

#define SOL_IP 0
#define IP_TRANSPARENT 19
#define SOL_SOCKET 1
#define SO_REUSEADDR 2

SEC("cgroup/setsockopt")
int setsockopt(struct bpf_sockopt *ctx)
{
	/* clang would merge the stores; the verifier wants them apart. */
	volatile struct bpf_sockopt *change = ctx;
	const struct settings *cfg = current_settings();
	struct bpf_sock *sk = ctx->sk;

	if (ctx->optlen > PAGE_SIZE) {
		ctx->optlen = 0; /* nothing was touched: see getsockopt.bpf.c */
		return 1;
	}
	if (!cfg || !sk || ctx->level != SOL_IP || ctx->optname != IP_TRANSPARENT ||
	    sk->state != BPF_TCP_LISTEN || sk->src_port != cfg->port[INBOUND])
		return 1;
	change->level = SOL_SOCKET;
	change->optname = SO_REUSEADDR;
	return 1;
}
