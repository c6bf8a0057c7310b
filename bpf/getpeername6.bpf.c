// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cgroup/getpeername6: as getpeername4, for AF_INET6 sockets. */
#include "names.h"

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return peer_show(ctx, false);
}
