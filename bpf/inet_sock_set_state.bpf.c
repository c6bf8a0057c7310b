// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/inet_sock_set_state: counts what escaped, as a socket begins a handshake: a
 * connection of an enrolled pod's that the table sends to ztunnel and that goes
 * elsewhere. 0 on every node that is in order. Loaded with --audit alone, for it runs
 * three times for each connection. Decides nothing.
 */
#include "verdict.h"

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old, int new)
{
	const struct settings *cfg = current_settings();
	struct netns_info now = {};
	struct endpoint to = {};
	enum family family;
	__u64 cgroup;

	if (new != BPF_TCP_SYN_SENT || !cfg || cfg->mode == NO_MODE)
		return 0;
	to.ip = peer_end(&sk->__sk_common);
	family = addr_family(&to.ip);
	if (addr_stays_here(&to.ip) || addr_equal(&to.ip, &cfg->ztunnel[family]) ||
	    addr_equal(&to.ip, &cfg->next[family]))
		return 0; /* where the table sends things */
	cgroup = (__u64)socket_cgroup(kernel_socket(ctx));
	if (!cgroup || !is_recorded(cgroup) || ztunnel_of(cgroup) >= 0)
		return 0; /* the table is not for these */
	netns_read(socket_net(ctx), &now);
	if (is_no_pod(now.netns, now.inum) || netns_is_ztunnels(cfg, now.netns))
		return 0;
	if (pod_verdict(ctx, cfg, &now, &to, false) < LISTENERS)
		count(STAT_ESCAPED);
	return 0;
}
