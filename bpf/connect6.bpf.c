// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect6: as connect4, for AF_INET6 sockets. One that dials an
 * IPv4-mapped address comes here, never to connect4, and gets the IPv4 verdict.
 */
#include "redirect.h"

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return redirect(ctx, false, CONNECT);
}
