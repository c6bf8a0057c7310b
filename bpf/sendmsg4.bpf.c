// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/sendmsg4: with DNS capture, sends the queries of enrolled pods on
 * unconnected UDP sockets to ztunnel. Datagrams to an IPv4-mapped address come
 * here as well. Attached only where DNS is captured: it runs for every datagram.
 */
#include "redirect.h"

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return redirect(ctx, true, SENDMSG);
}
