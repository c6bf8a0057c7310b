// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cgroup/bind6: as bind4, for AF_INET6 sockets. */
#include "bind.h"

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return bind_source(ctx, false);
}
