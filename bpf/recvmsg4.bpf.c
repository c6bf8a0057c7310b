// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/recvmsg4: an answer to a captured DNS query comes from the resolver
 * that was last asked through the socket. Attached only where DNS is captured:
 * it runs for every datagram.
 */
#include "names.h"

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return sender_show(ctx, true);
}
