/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Direct connections: TCP that a pod's program opened and that does not go through
 * ztunnel, for the pod was not enrolled then. connect() is long past, so they are
 * found among the kernel's sockets, and judged by the table of verdict.h as they
 * are now. Nothing is changed here.
 */
#ifndef ONRAMP_DIRECT_H
#define ONRAMP_DIRECT_H

#include "enrolment.h"
#include "pods.h"

/*
 * Session of one who reads `pods` or `direct`, and address of a netns -> how many
 * direct connections it has; 0, or address of a table: the header, or the table, is
 * done with. Written and read by the two files' programs. Of a session each, so that
 * two readers at once do not mix; an LRU, for they may leave half-way. Full: the
 * session's oldest counts go, and are 0 in `pods`.
 */
struct direct_key {
	__u64 session;
	__u64 of;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct direct_key);
	__type(value, __u64);
} direct_counts SEC(".maps") __weak;

/* What a reader has noted of something; NULL: nothing. */
static __always_inline __u64 *noted(__u64 session, __u64 of)
{
	struct direct_key key = { session, of };

	return bpf_map_lookup_elem(&direct_counts, &key);
}

static __always_inline void note(__u64 session, __u64 of, __u64 count)
{
	struct direct_key key = { session, of };

	bpf_map_update_elem(&direct_counts, &key, &count, BPF_ANY);
}

/*
 * Whether the session begins. meta->seq_num does not say: it is 0 once more after
 * the last of one, and may be -1 after none.
 */
static __always_inline bool begins(__u64 session)
{
	if (noted(session, 0))
		return false;
	note(session, 0, 0);
	return true;
}

static __always_inline struct net *netns_of(struct sock_common *sk)
{
	return BPF_CORE_READ(sk, skc_net.net);
}

/* enum BPF_TCP_* of uapi. */
static __always_inline __u32 state_of(struct sock_common *sk)
{
	return BPF_CORE_READ(sk, skc_state) & 31;
}

/*
 * Whether a program holds the socket, and opened it with connect(). What the table
 * of connections has besides are smaller things than sockets, by their state, and
 * orphans: before 6.11 (bac76cf89816) the kernel never frees one that is reset.
 */
static __always_inline bool is_opened(struct sock *sk)
{
	__u32 opened = 1 << BPF_TCP_ESTABLISHED | 1 << BPF_TCP_SYN_SENT | 1 << BPF_TCP_FIN_WAIT1 |
		       1 << BPF_TCP_FIN_WAIT2 | 1 << BPF_TCP_CLOSE_WAIT | 1 << BPF_TCP_LAST_ACK |
		       1 << BPF_TCP_CLOSING;

	return opened >> state_of(&sk->__sk_common) & 1 && BPF_CORE_READ(sk, sk_socket) &&
	       is_opened_by_connect(sk);
}

/* Whether it was made in ztunnel's cgroup, known by -t. */
static __always_inline bool is_ztunnels_socket(const struct settings *cfg, struct sock *sk)
{
	return cfg && cfg->ztunnel_cgroup && socket_is_within(sk, cfg->ztunnel_cgroup);
}

/* Whether a connection that was opened in a pod is one that ztunnel should have. */
static __always_inline bool goes_direct(struct sock *sk)
{
	const struct settings *cfg = current_settings();
	union addr ip = peer_end(&sk->__sk_common);

	return !addr_stays_here(&ip) && !is_bypassed(&ip) && !is_ztunnels_socket(cfg, sk) &&
	       !(cfg && addr_equal(&ip, &cfg->ztunnel[addr_family(&ip)])) &&
	       !netns_has(netns_of(&sk->__sk_common), &ip);
}

#endif
