// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/bind4, on ztunnel's cgroup: its binds to clients' addresses are made harmless.
 */
#include "bind.h"

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return bind_source(ctx, true);
}
