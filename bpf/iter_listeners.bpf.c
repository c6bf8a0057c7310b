// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/tcp: finds ztunnel's listeners that are older than the load, in the netns of who
 * reads it, before what arrives there is led to them. Prints nothing.
 */
#include "listeners.h"
#include "pods.h"

SEC("iter/tcp")
int iter_listeners(struct bpf_iter__tcp *ctx)
{
	const struct settings *cfg = current_settings();
	struct sock_common *sk = ctx->sk_common;
	struct listener_key key = {};
	__u64 *start;
	int place;

	if (!cfg || !sk || sk->skc_state != BPF_TCP_LISTEN)
		return 0;
	key.listener = listener_of(cfg, sk->skc_num);
	if (key.listener == LISTENERS)
		return 0;
	place = ztunnel_of((__u64)socket_cgroup((struct sock *)sk));
	if (place < 0)
		return 0;
	key.net = (__u64)BPF_CORE_READ(sk, skc_net.net);
	key.place = place;
	start = bpf_map_lookup_elem(&ztunnel_starts, &key.place);
	if (start && !*start)
		*start = 1 + key.place; /* not known: older than what begins to listen later */
	/* Never once more: 5.10 would then forget to take it out when it closes. */
	bpf_map_update_elem(&listeners, &key, sk, BPF_NOEXIST);
	return 0;
}
