/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel as onramp sees it, and all that differs between kernels.
 *
 * Only the fields that are read, found by CO-RE: no vmlinux.h, so that the
 * object is the same wherever it is built. Where a kernel has no such field,
 * the test is bpf_core_*_exists, never a version.
 */
#ifndef ONRAMP_KERNEL_H
#define ONRAMP_KERNEL_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "onramp.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IFF_LOOPBACK 0x8
#define IFA_F_PERMANENT 0x80
#define PF_KTHREAD 0x00200000
#define SOCK_BINDPORT_LOCK 8
#define EEXIST 17
#define PAGE_SIZE 4096 /* the smallest there is: arm64 may have more */

/*
 * Not by CO-RE: lists, which have not changed, and the contexts of iterators, whose
 * members are 8 bytes each and known to the verifier. Each type that is looked up
 * costs a load one walk through all of the kernel's.
 */
struct list_head {
	struct list_head *next;
};

struct hlist_nulls_node {
	struct hlist_nulls_node *next; /* odd: the end */
};

struct seq_file;
struct task_struct;
struct sock_common;
struct bpf_map;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__bpf_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct in_ifaddr {
	struct in_ifaddr *ifa_next;
	__be32 ifa_local;
	unsigned char ifa_scope;
};

struct in_device {
	struct in_ifaddr *ifa_list;
};

struct inet6_ifaddr {
	struct in6_addr addr;
	__u32 flags;
	struct list_head if_list;
};

struct inet6_dev {
	struct list_head addr_list;
};

struct net_device {
	unsigned int flags;
	int ifindex;
	struct list_head dev_list;
	struct in_device *ip_ptr;
	struct inet6_dev *ip6_ptr;
};

struct ns_common {
	unsigned int inum;
};

struct hlist_nulls_head {
	struct hlist_nulls_node *first;
};

struct inet_ehash_bucket {
	struct hlist_nulls_head chain;
};

struct inet_hashinfo {
	struct inet_ehash_bucket *ehash;
	unsigned int ehash_mask;
};

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
};

struct netns_ipv4 {
	atomic_t dev_addr_genid;
	struct inet_timewait_death_row tcp_death_row;
};

struct netns_ipv6 {
	atomic_t dev_addr_genid;
};

struct net {
	struct ns_common ns;
	struct list_head dev_base_head;
	unsigned int dev_base_seq;
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};

typedef struct {
	struct net *net;
} possible_net_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_ipv6only : 1;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	struct hlist_nulls_node skc_nulls_node;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
	/* Before 5.15 (8520e224f547) a pointer with flags, or a net_cls or net_prio number. */
	__u64 val;
};

struct sock {
	struct sock_common __sk_common;
	unsigned char sk_userlocks : 4;
	__u32 sk_max_ack_backlog;
	struct socket *sk_socket;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	struct sock sk;
};

struct inet_bind_bucket {
	signed char fastreuse;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct inet_bind_bucket *icsk_bind_hash;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	/* Before 6.1 (7f203bc89eb6) ids, then pointers. Both end in the cgroup. */
	__u64 ancestor_ids[1];
	struct cgroup *ancestors[1];
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct nsproxy {
	struct net *net_ns;
};

struct task_struct {
	unsigned int flags;
	struct list_head tasks;
	int pid;
	struct task_struct *real_parent;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
};

struct bpf_map {
	__u32 max_entries;
};

struct lpm_trie_node {
	struct lpm_trie_node *child[2];
	__u32 prefixlen;
	__u32 flags;
	__u8 data[];
};

struct lpm_trie {
	struct lpm_trie_node *root;
};

/* Before 5.12 (3d368ab87cf6) a counter that is 0 until somebody asks. */
struct net___uncounted {
	struct {
		__s64 counter;
	} net_cookie;
};

/* From 5.18 (fbb8295248e1) to 6.1 (e9bd0cca09d1) a pointer. */
struct netns_ipv4___pointer {
	struct inet_timewait_death_row *tcp_death_row;
};

#pragma clang attribute pop

static __always_inline bool netns_has_cookie(void)
{
	return !bpf_core_field_exists(((struct net___uncounted *)0)->net_cookie);
}

/*
 * A number for a netns: its cookie, which never comes again; where there is
 * none, its address, which may: then *flags gains NETNS_REUSED.
 */
static __always_inline __u64 netns_id(struct net *net, __u32 *flags)
{
	if (netns_has_cookie())
		return BPF_CORE_READ(net, net_cookie);
	*flags |= NETNS_REUSED;
	return (__u64)net;
}

/* A kernel pointer as a number: through memory, for the verifier lets none be passed as one. */
static __always_inline __u64 as_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/*
 * The kernel's socket behind a sock_addr, sockops or sockopt context. The verifier
 * forbids arithmetic on ctx->sk, so that its fields are out of reach there;
 * all these begin with the socket, so read it as a number.
 */
static __always_inline struct sock *kernel_socket(const void *ctx)
{
	struct sock *sk = NULL;

	bpf_probe_read_kernel(&sk, sizeof(sk), ctx);
	return sk;
}

static __always_inline struct net *socket_net(const void *ctx)
{
	return BPF_CORE_READ(kernel_socket(ctx), __sk_common.skc_net.net);
}

/* netns_id() of the context's socket's. */
static __always_inline __u64 socket_netns_id(const void *ctx)
{
	__u32 flags = 0;

	return netns_id(socket_net(ctx), &flags);
}

/*
 * Counters that the kernel raises whenever the netns gains or loses a device
 * (list_netdevice), an IPv4 address (fib_inetaddr_event) or an IPv6 address
 * (__ipv6_ifa_notify).
 */
static __always_inline void netns_generation(struct net *net, __u32 gen[3])
{
	gen[0] = BPF_CORE_READ(net, dev_base_seq);
	gen[1] = BPF_CORE_READ(net, ipv4.dev_addr_genid.counter);
	gen[2] = BPF_CORE_READ(net, ipv6.dev_addr_genid.counter);
}

/* The cgroup that the socket was made in; NULL: the kernel holds no such thing. */
static __always_inline struct cgroup *socket_cgroup(struct sock *sk)
{
	__u64 val;

	if (!bpf_core_field_exists(sk->sk_cgrp_data.val))
		return BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	val = BPF_CORE_READ(sk, sk_cgrp_data.val);
	return val & 1 ? NULL : (struct cgroup *)(val & ~3ULL);
}

/*
 * The table of the connections of net and, as a rule, of all other netns: since 6.1
 * (d1e5e6408b30) one may have its own.
 */
static __always_inline struct inet_hashinfo *connection_table(struct net *net)
{
	struct netns_ipv4___pointer *old = (void *)&net->ipv4;

	if (bpf_core_field_exists(old->tcp_death_row))
		return BPF_CORE_READ(old, tcp_death_row, hashinfo);
	return BPF_CORE_READ(net, ipv4.tcp_death_row.hashinfo);
}

/*
 * Whether connect() opened a socket's connection, of which the kernel keeps no note.
 * An accepted one has its listener's backlog. So has one that listened itself or was
 * accepted before, and dialled then: but that has a port which it chose (accepted
 * ones lose SOCK_BINDPORT_LOCK in sk_clone_lock) or connect() did (which marks it so
 * in inet_hash_connect). Wrong of what a listener with a backlog of 0 accepted.
 */
static __always_inline bool is_opened_by_connect(struct sock *sk)
{
	struct inet_connection_sock *icsk = (void *)sk;

	return !BPF_CORE_READ(sk, sk_max_ack_backlog) ||
	       BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDPORT_LOCK ||
	       BPF_CORE_READ(icsk, icsk_bind_hash, fastreuse) == -1;
}

/* The id of the cgroup's ancestor at level, which must not exceed its own. */
static __always_inline __u64 cgroup_ancestor_id(struct cgroup *cgroup, int level)
{
	struct cgroup *ancestor = NULL;
	__u64 id = 0;

	if (bpf_core_field_exists(cgroup->ancestor_ids)) {
		bpf_probe_read_kernel(&id, sizeof(id), &cgroup->ancestor_ids[level]);
		return id;
	}
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor), &cgroup->ancestors[level]);
	return BPF_CORE_READ(ancestor, kn, id);
}

#endif
