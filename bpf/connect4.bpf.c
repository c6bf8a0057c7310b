// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect4: sends the TCP connections of enrolled pods to ztunnel, by
 * the way that redirect.h shows.
 * With DNS capture connected UDP to port 53 as well.
 */
#include "redirect.h"

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return redirect(ctx, true, CONNECT);
}
