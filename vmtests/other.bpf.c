// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The other programs on a crowded cgroup: a socket load balancer as some CNIs
 * have it, which sends a service's address to its one backend, and a sockops
 * program that asks for events of its own. And, by their names, connect4, which is
 * another onramp's, and the load balancers of Cilium and Calico.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SERVICE 0x0a60000a /* 10.96.0.10 */
#define BACKEND 0x0a4d0202 /* 10.77.2.2 */

char other_license[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect4")
int other_connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip4 == bpf_htonl(SERVICE))
		ctx->user_ip4 = bpf_htonl(BACKEND);
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4")
int cil_sock4_connect(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4")
int calico_connect_v4(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("sockops")
int other_sockops(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		bpf_sock_ops_cb_flags_set(ctx,
					  ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
	return 1;
}
