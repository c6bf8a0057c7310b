// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cgroup/recvmsg6: as recvmsg4, for AF_INET6 sockets. */
#include "names.h"

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return sender_show(ctx, false);
}
