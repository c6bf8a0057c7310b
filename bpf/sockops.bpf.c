// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sockops. In node mode, for all: hands the original destination from the client's
 * socket to the one that the proxy accepts (handover.h), and sees a new ztunnel begin to
 * listen, which then takes over. In in-pod mode, on ztunnel's cgroups and the kubelet's
 * alone: notes where ztunnel listens, and which connections are the kubelet's.
 *
 * Every other event returns at once, and no event is per packet.
 */
#include "handover.h"
#include "listeners.h"
#include "pods.h"

/*
 * One side's address, from the context's IPv4 and IPv6 fields: on a dual-stack
 * socket an IPv4 one is in the IPv6 field too, mapped. Both are always read, for
 * else clang would choose the field by arithmetic on ctx, which the verifier
 * forbids.
 */
static __always_inline union addr addr_of(__u32 family, __be32 ip4, const volatile __u32 ip6[4])
{
	union addr ip = { .word = { ip6[0], ip6[1], ip6[2], ip6[3] } };

	return family == AF_INET6 ? ip : addr_from_v4(ip4);
}

static __always_inline void hand_over(struct bpf_sock_ops *ctx)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	struct handover_key key = {};
	struct bpf_sock *sk = ctx->sk;
	struct dialled *dialled;

	if (!sk)
		return;
	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (!dialled)
		return;
	key.client = addr_of(fields->family, fields->local_ip4, fields->local_ip6);
	key.client_port = ctx->local_port;
	key.proxy_port = dialled->given.port;
	/* tcp_connect() sends the SYN with write_seq right after this event. */
	key.isn = BPF_CORE_READ((struct tcp_sock *)kernel_socket(ctx), write_seq);
	if (bpf_map_update_elem(&handovers, &key, &dialled->asked, BPF_ANY)) {
		count(STAT_HANDOVERS_FULL);
		return;
	}
	dialled->handover = key;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void take_over(struct bpf_sock_ops *ctx)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	const struct settings *cfg = current_settings();
	struct handover_key key = {};
	struct bpf_sock *sk = ctx->sk;
	struct endpoint *asked;
	__u32 port = ctx->local_port;

	if (!sk || !cfg ||
	    (port != cfg->port[OUTBOUND] && port != cfg->port[INBOUND] &&
	     port != cfg->port[HBONE] && port != cfg->port[DNS]))
		return;
	key.client = addr_of(fields->family, fields->remote_ip4, fields->remote_ip6);
	key.client_port = bpf_ntohl(ctx->remote_port);
	key.proxy_port = port;
	key.isn = ctx->rcv_nxt - 1; /* nothing but the SYN has been counted */
	asked = bpf_map_lookup_elem(&handovers, &key);
	if (!asked) {
		count(STAT_NOT_HANDED);
		return;
	}
	if (bpf_sk_storage_get(&original_dst, sk, asked, BPF_SK_STORAGE_GET_F_CREATE))
		count(STAT_HANDED_OVER);
	bpf_map_delete_elem(&handovers, &key);
}

static __always_inline void take_back(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct dialled *dialled;

	if (!sk)
		return;
	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (dialled)
		bpf_map_delete_elem(&handovers, &dialled->handover);
}

/* Whether it is the ztunnel that settings have as the next. */
static __always_inline bool is_next(struct bpf_sock_ops *ctx, const struct settings *cfg)
{
	if (cfg->next_netns && socket_netns_id(ctx) == cfg->next_netns)
		return true;
	return cfg->next_cgroup &&
	       cgroup_has((__u64)socket_cgroup(kernel_socket(ctx)), 0, SOUGHT_ID, cfg->next_cgroup);
}

/* A socket begins to listen: if it is the next ztunnel's, that one is the present one. */
static __always_inline void listens(struct bpf_sock_ops *ctx)
{
	const struct settings *cfg = current_settings();
	struct settings new;
	__u32 key = 0;

	if (!cfg || ctx->local_port != cfg->port[OUTBOUND] || !is_next(ctx, cfg))
		return;
	new = *cfg;
	new.ztunnel[V4] = cfg->next[V4];
	new.ztunnel[V6] = cfg->next[V6];
	new.next[V4] = cfg->ztunnel[V4];
	new.next[V6] = cfg->ztunnel[V6];
	new.next_cgroup = 0;
	new.next_netns = 0;
	bpf_map_update_elem(&settings, &key, &new, BPF_EXIST);
}

/* In-pod mode: a socket of ztunnel's begins to listen, in whatever netns. */
static __always_inline void listener_note(struct bpf_sock_ops *ctx)
{
	const struct settings *cfg = current_settings();
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct listener_key key = {};
	__u64 start = BPF_CORE_READ(task, group_leader, start_boottime);
	int place;

	if (!cfg)
		return;
	key.listener = listener_of(cfg, ctx->local_port);
	if (key.listener == LISTENERS)
		return;
	place = ztunnel_of((__u64)socket_cgroup(kernel_socket(ctx)));
	if (place < 0)
		return;
	key.net = (__u64)socket_net(ctx);
	key.place = place;
	bpf_map_update_elem(&ztunnel_starts, &key.place, &start, BPF_ANY);
	if (bpf_sock_hash_update(ctx, &listeners, &key, BPF_ANY))
		count(STAT_LISTENERS_FULL);
}

/* The key of a connection of the kubelet's. */
static __always_inline struct probe_key probe_of(struct bpf_sock_ops *ctx)
{
	const volatile struct bpf_sock_ops *fields = ctx;

	return (struct probe_key){
		.to = addr_of(fields->family, fields->remote_ip4, fields->remote_ip6),
		.from_port = fields->local_port,
		.port = bpf_ntohl(fields->remote_port),
	};
}

/* In-pod mode: a program in the kubelet's cgroup dials; a pod's, were it there, would not count. */
static __always_inline void probe_note(struct bpf_sock_ops *ctx)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	struct probe_key key = probe_of(ctx);
	struct net *net = socket_net(ctx);
	union addr from = addr_of(fields->family, fields->local_ip4, fields->local_ip6);

	if (addr_stays_here(&key.to)) /* no pod's: and as many as anybody likes */
		return;
	if (!is_node(netns_id(net), BPF_CORE_READ(net, ns.inum)) ||
	    !cgroup_has((__u64)socket_cgroup(kernel_socket(ctx)), 0, SOUGHT_KUBELET, 0))
		return;
	if (bpf_map_update_elem(&probes, &key, &from, BPF_ANY))
		count(STAT_PROBES_FULL);
	else
		bpf_sock_ops_cb_flags_set(ctx,
					  ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void probe_forget(struct bpf_sock_ops *ctx)
{
	struct probe_key key = probe_of(ctx);

	bpf_map_delete_elem(&probes, &key);
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (is_in_pod_mode())
			probe_note(ctx);
		else
			hand_over(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (!is_in_pod_mode())
			take_over(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		if (is_in_pod_mode())
			listener_note(ctx);
		else
			listens(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] != BPF_TCP_CLOSE)
			break;
		if (is_in_pod_mode())
			probe_forget(ctx);
		else
			take_back(ctx);
		break;
	}
	return 1; /* ctx->reply stays as other programs set it */
}
