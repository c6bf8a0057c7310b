// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/connect4: sends the TCP connections of enrolled pods to ztunnel, by
 * the table in verdict.h, and keeps the original destination with the socket.
 * With DNS capture connected UDP to port 53 as well.
 */
#include "verdict.h"

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return redirect4(ctx, CONNECT);
}
