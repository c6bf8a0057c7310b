// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/getpeername4: the client of a redirected connection sees the peer
 * that it dialled.
 */
#include "names.h"

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return peer_show(ctx, true);
}
