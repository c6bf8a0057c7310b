// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cgroup/getsockname6: as getsockname4, for AF_INET6 sockets. */
#include "names.h"

SEC("cgroup/getsockname6")
int getsockname6(struct bpf_sock_addr *ctx)
{
	return own_show(ctx, false);
}
