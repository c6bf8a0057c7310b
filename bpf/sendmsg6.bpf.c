// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* cgroup/sendmsg6: as sendmsg4, for IPv6. */
#include "redirect.h"

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return redirect(ctx, false, SENDMSG);
}
