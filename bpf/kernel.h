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

struct refcount {
	atomic_t refs;
};

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

struct netns_ipv4 {
	atomic_t dev_addr_genid;
};

struct netns_ipv6 {
	atomic_t dev_addr_genid;
};

struct net {
	struct ns_common ns;
	struct refcount passive;
	struct list_head dev_base_head;
	unsigned int dev_base_seq;
	__u32 hash_mix;
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_ipv6only : 1;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
	/* Before 5.15 (8520e224f547) a pointer with flags, or a net_cls or net_prio number. */
	__u64 val;
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data;
};

struct ip_options {
	unsigned char srr;
};

struct ip_options_rcu {
	struct ip_options opt;
};

struct ipv6_rt_hdr;

struct ipv6_txoptions {
	struct ipv6_rt_hdr *srcrt;
};

struct ipv6_pinfo {
	struct ipv6_txoptions *opt;
};

struct inet_sock {
	struct ipv6_pinfo *pinet6; /* NULL: it is an IPv4 one */
	struct ip_options_rcu *inet_opt;
};

struct tcp_sock {
	__u32 write_seq;
};

typedef struct {
	__u32 val;
} kuid_t;

struct kernfs_iattrs {
	kuid_t ia_uid;
};

struct kernfs_node {
	__u64 id;
	const char *name;
	struct kernfs_iattrs *iattr; /* NULL: root's, as it was made */
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct cgroup_subsys_state self;
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
	int tgid;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
};

/* Before 5.12 (3d368ab87cf6) a counter that is 0 until somebody asks. */
struct net___uncounted {
	struct {
		__s64 counter;
	} net_cookie;
};

#pragma clang attribute pop

static __always_inline bool netns_has_cookie(void)
{
	return !bpf_core_field_exists(((struct net___uncounted *)0)->net_cookie);
}

/*
 * A number that no other netns has, nor will have: its cookie. Where there is none
 * yet, of its address, which may come again, and of the random number that each
 * netns has for its hashes (355b98553789, 5.1).
 */
static __always_inline __u64 netns_id(struct net *net)
{
	if (netns_has_cookie())
		return BPF_CORE_READ(net, net_cookie);
	return (__u64)net << 32 | BPF_CORE_READ(net, hash_mix);
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

/* A TCP socket, whose fields can be read by plain loads: it begins with these. */
static __always_inline const struct sock_common *tcp_fields(struct bpf_sock *sk)
{
	return (const struct sock_common *)bpf_skc_to_tcp_sock(sk);
}

/*
 * Whether a TCP socket has been told which way its packets go (IP_OPTIONS, IPV6_RTHDR): to
 * the first address of that, whatever address connect() is given. Not only root may.
 */
static __always_inline bool is_source_routed(struct bpf_sock *sk)
{
	const struct inet_sock *tcp = (const struct inet_sock *)tcp_fields(sk);

	if (!tcp)
		return true; /* none that is known; whoever asks refuses then */
	if (tcp->inet_opt && tcp->inet_opt->opt.srr)
		return true;
	return tcp->pinet6 && tcp->pinet6->opt && tcp->pinet6->opt->srcrt;
}

static __always_inline struct net *socket_net(const void *ctx)
{
	return BPF_CORE_READ(kernel_socket(ctx), __sk_common.skc_net.net);
}

/*
 * The scope of the address that a sock_addr program sees: the kernel keeps the
 * sockaddr_in6 as the second thing in the context (struct bpf_sock_addr_kern), and
 * shows all of it but this.
 */
static __always_inline __u32 address_scope(const void *ctx)
{
	struct sockaddr_in6 *name = NULL;
	__u32 scope = 0;

	bpf_probe_read_kernel(&name, sizeof(name), ctx + sizeof(void *));
	bpf_probe_read_kernel(&scope, sizeof(scope), &name->sin6_scope_id);
	return scope;
}

/* netns_id() of the context's socket's. */
static __always_inline __u64 socket_netns_id(const void *ctx)
{
	return netns_id(socket_net(ctx));
}

/* The same of a sock_addr context's, for which the kernel has a helper. */
static __always_inline __u64 name_netns_id(struct bpf_sock_addr *ctx)
{
	return netns_has_cookie() ? bpf_get_netns_cookie(ctx) : socket_netns_id(ctx);
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

static __always_inline struct cgroup *current_cgroup(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, cgroups, dfl_cgrp);
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

/*
 * Global functions, which take and return numbers: the verifier checks each once and
 * by itself. Inlined, the branches of one loop in another exceed its million
 * instructions, and what they need takes room in the caller's stack once for each
 * call. A loop lets one of them choose, where it can: a branch within is two paths, in
 * each of its rounds.
 */
#define WALK __weak __noinline

/*
 * Has the compiler leave a variable where it is. Spread over registers, and over what is
 * spilled of these, each of its parts takes stack, and is a state to the verifier.
 */
#define in_memory(variable) asm volatile("" : : "r"(&(variable)) : "memory")

#endif
