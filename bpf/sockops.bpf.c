// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sockops: hands the original destination from the client's socket to the one
 * that the proxy accepts.
 *
 *   client   TCP_CONNECT_CB, before the SYN leaves: writes handovers
 *   proxy    PASSIVE_ESTABLISHED_CB: moves it into the socket's own storage
 *   client   STATE_CB, closed: takes back what nobody accepted
 *
 * A connection that has a number needs no more than the second of these, and where
 * all have one, sockops is attached to ztunnel's cgroup alone.
 *
 * It also knows ztunnel's listeners. In-pod mode counts them by netns, in node mode
 * sk_lookup leads to them:
 *
 *   ztunnel  TCP_LISTEN_CB: ztunnel_listeners or proxy_sockets
 *   ztunnel  STATE_CB, closed: takes it out of ztunnel_listeners again
 *
 * Every other event returns at once, and no event is per packet.
 */
#include "numbers.h"
#include "enrolment.h"
#include "pods.h"

#define TCP_CLOSE 7

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

/* For the key: of a connection within loopback the netns, else 0. */
static __always_inline __u64 netns_of(struct bpf_sock_ops *ctx, const union addr *proxy)
{
	return addr_is_loopback(proxy) ? socket_netns_id(ctx) : 0;
}

static __always_inline void hand_over(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	struct handover handover = {};
	struct handover_key key = {};
	struct dialled *dialled;

	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (!dialled || dialled->handover.proxy_port) /* or has a number that was lent */
		return;
	key.client = addr_of(fields->family, fields->local_ip4, fields->local_ip6);
	key.netns = netns_of(ctx, &dialled->given.ip);
	key.client_port = ctx->local_port;
	key.proxy_port = dialled->given.port;
	/* tcp_connect() sends the SYN with write_seq right after this event. */
	key.isn = BPF_CORE_READ((struct tcp_sock *)kernel_socket(ctx), write_seq);

	handover.asked = dialled->asked;
	if (bpf_map_update_elem(&handovers, &key, &handover, BPF_ANY)) {
		count(STAT_HANDOVERS_FULL);
		return;
	}
	dialled->handover = key;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The handover of a connection that the proxy has, and its key. */
static __always_inline struct handover *handover_of(struct bpf_sock_ops *ctx,
						    struct handover_key *key)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	union addr own = addr_of(fields->family, fields->local_ip4, fields->local_ip6);
	union addr client = addr_of(fields->family, fields->remote_ip4, fields->remote_ip6);

	if (ctx->local_port >= FIRST_LENT_PORT)
		return port_to_handover(&client, ctx->local_port, key);
	if (addr_is_lent(&own)) {
		*key = lent_key(own.half[1], netns_of(ctx, &own), ctx->local_port);
		return bpf_map_lookup_elem(&handovers, key);
	}
	key->client = client;
	key->netns = netns_of(ctx, &own);
	key->client_port = bpf_ntohl(ctx->remote_port);
	key->proxy_port = ctx->local_port;
	key->isn = ctx->rcv_nxt - 1; /* nothing but the SYN has been counted */
	return bpf_map_lookup_elem(&handovers, key);
}

static __always_inline void take_over(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	const struct settings *cfg = current_settings();
	struct handover_key key = {};
	struct handover *handover;
	union addr own;

	if (!cfg)
		return;
	if (ctx->local_port >= FIRST_PORT ? !netns_is_ztunnels(ctx, cfg) :
					    listener_role(cfg, ctx->local_port) < 0)
		return;
	own = addr_of(fields->family, fields->local_ip4, fields->local_ip6);
	if (port_is_numbered(ctx->local_port) || addr_is_numbered(&own)) {
		count(STAT_HANDED_OVER); /* by its number */
		return;
	}
	handover = handover_of(ctx, &key);
	if (!handover) {
		count(STAT_NO_HANDOVER);
		return;
	}
	if (bpf_sk_storage_get(&original_dst, sk, &handover->asked, BPF_SK_STORAGE_GET_F_CREATE))
		count(STAT_HANDED_OVER);
	bpf_map_delete_elem(&handovers, &key);
}

static __always_inline void take_back(struct bpf_sock *sk)
{
	struct dialled *dialled;

	dialled = bpf_sk_storage_get(&dialled_sockets, sk, NULL, 0);
	if (dialled)
		bpf_map_delete_elem(&handovers, &dialled->handover);
}

/* What a listening socket takes of connections to loopback: enum listener_kind. */
static __always_inline __u32 listener_kinds(struct bpf_sock_ops *ctx)
{
	const volatile struct bpf_sock_ops *fields = ctx;
	union addr ip = addr_of(fields->family, fields->local_ip4, fields->local_ip6);
	struct sock *sk = kernel_socket(ctx);

	if (addr_is_v4(&ip) && !ip.word[3])
		return LISTENS_ALL_V4;
	if (addr_is_loopback(&ip))
		return addr_is_v4(&ip) ? LISTENS_LOCAL_V4 : LISTENS_V6;
	if (!addr_is_zero(&ip))
		return 0;
	return BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only) ?
		       LISTENS_V6 :
		       LISTENS_V6 | LISTENS_ALL_V4;
}

static __always_inline void count_listener(const struct listener *listener, int by)
{
	struct listeners *here = bpf_map_lookup_elem(&ztunnel_listeners, &listener->key);

	if (!here)
		return;
	if (listener->kinds & LISTENS_ALL_V4)
		__sync_fetch_and_add(&here->all_v4, by);
	if (listener->kinds & LISTENS_LOCAL_V4)
		__sync_fetch_and_add(&here->local_v4, by);
	if (listener->kinds & LISTENS_V6)
		__sync_fetch_and_add(&here->v6, by);
	/* Should another begin just now: connect() looks for what has no entry. */
	if (!(here->all_v4 | here->local_v4 | here->v6))
		bpf_map_delete_elem(&ztunnel_listeners, &listener->key);
}

/* Node mode: sk_lookup will find the listener by its role and family. */
static __always_inline void listener_shown(struct bpf_sock_ops *ctx, const struct settings *cfg)
{
	__u32 kinds = listener_kinds(ctx);
	int role = listener_role(cfg, ctx->local_port);
	__u32 at = role * FAMILIES;

	if (role < 0 || !netns_is_ztunnels(ctx, cfg))
		return;
	if (ctx->family == AF_INET || kinds & LISTENS_ALL_V4)
		bpf_sock_map_update(ctx, &proxy_sockets, &at, BPF_ANY);
	at++;
	if (ctx->family == AF_INET6)
		bpf_sock_map_update(ctx, &proxy_sockets, &at, BPF_ANY);
}

static __always_inline void listener_opens(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	const struct settings *cfg = current_settings();
	struct listeners none = {};
	struct listener listener = {};
	long err;

	if (cfg && cfg->ztunnel_netns)
		listener_shown(ctx, cfg);
	if (!cfg || !in_pod_mode(cfg) || ctx->local_port != cfg->outbound_port ||
	    !socket_is_within(kernel_socket(ctx), cfg->ztunnel_cgroup))
		return;
	/* By our program on another cgroup, while `load` moves there. */
	if (bpf_sk_storage_get(&listener_sockets, sk, NULL, 0))
		return;
	listener.key.netns = socket_netns_id(ctx);
	listener.key.ztunnel = cfg->ztunnel_cgroup;
	listener.kinds = listener_kinds(ctx);
	err = bpf_map_update_elem(&ztunnel_listeners, &listener.key, &none, BPF_NOEXIST);
	if (err && err != -EEXIST) {
		count(STAT_LISTENERS_FULL);
		return; /* uncounted, or what it takes out would be another's */
	}
	if (!bpf_sk_storage_get(&listener_sockets, sk, &listener, BPF_SK_STORAGE_GET_F_CREATE))
		return;
	count_listener(&listener, 1);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void listener_closes(struct bpf_sock *sk)
{
	struct listener *listener = bpf_sk_storage_get(&listener_sockets, sk, NULL, 0);

	if (!listener)
		return;
	count_listener(listener, -1);
	bpf_sk_storage_delete(&listener_sockets, sk); /* it may listen again */
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk; /* a second look would be a second NULL */

	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		hand_over(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		take_over(ctx, sk);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listener_opens(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] != TCP_CLOSE)
			break;
		if (ctx->args[0] == BPF_TCP_LISTEN)
			listener_closes(sk);
		else
			take_back(sk);
		break;
	}
	return 1; /* ctx->reply stays as other programs set it */
}
