// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * cgroup/getsockname4: in in-pod mode the client of a redirected connection sees its
 * pod's address as its own, though the connection is one of loopback's. Runs for
 * every getsockname().
 */
#include "names.h"

SEC("cgroup/getsockname4")
int getsockname4(struct bpf_sock_addr *ctx)
{
	return own_show(ctx, true);
}
