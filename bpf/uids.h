/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which pod of Kubernetes' a netns is of, by UID.
 *
 * A cgroup's pod is that of the topmost component of its path below -c that is named as
 * a kubelet names a pod's, and root's: nothing that a pod makes is above that, and what
 * is delegated to a user of the node's is the user's. A netns is its pod's
 * from the pod's first program on, and the pod's only one for as long as it lives: what
 * a pod enters or makes later is unknown here, and there the caller's cgroup is asked.
 * The node's is nobody's, so that pods with hostNetwork have none.
 */
#ifndef ONRAMP_UIDS_H
#define ONRAMP_UIDS_H

#include "maps.h"
#include "netns.h"

#define NAME_CHUNK 16
#define NAME_MAX 255
#define UUID_LENGTH 36	 /* 8-4-4-4-12 */
#define DIGITS_LENGTH 32 /* a static pod's: a hash of its manifest, without separators */

/* Of a cgroup's name. */
WALK int name_length(__u64 name)
{
	char chunk[NAME_CHUNK + 1];
	int length = 0;
	long got;

	for (int i = 0; i <= NAME_MAX / NAME_CHUNK; i++) {
		got = bpf_probe_read_kernel_str(chunk, sizeof(chunk), (void *)name + length);
		if (got <= 0)
			break;
		length += got - 1;
		if (got <= NAME_CHUNK)
			break;
	}
	return length;
}

static __always_inline __u32 char_at(__u64 text)
{
	__u8 read = 0;

	bpf_probe_read_kernel(&read, sizeof(read), (void *)text);
	return read;
}

/*
 * By character: what a hexadecimal digit stands for, and 16; 0: it is none. A table, for each
 * branch in its place doubles what the verifier follows.
 */
static const volatile __u8 digit_of[256] = {
	['0'] = 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, ['a'] = 26, 27, 28, 29, 30, 31,
};

/*
 * The first or the second half of the UID whose digits begin at text, in host byte order,
 * with this separator (0: none) between its groups; 0: it is none.
 */
WALK __u64 digits_read(__u64 text, __u32 separator, __u32 half)
{
	__u32 gap = (separator + 255) >> 8; /* 0 without one, else 1: a branch is another path */
	__u64 first = 0, value = 0;
	__u32 found;

	for (__u32 digit = 0; digit < 32; digit++) {
		if (digit == 8 || digit == 12 || digit == 16 || digit == 20) {
			if (gap * (char_at(text) ^ separator))
				return 0;
			text += gap;
		}
		if (digit == 16)
			first = value;
		found = digit_of[char_at(text) & 0xff];
		if (!found)
			return 0;
		value = value << 4 | (found & 15); /* of the last 16 */
		text++;
	}
	return half ? value : first;
}

/* Four characters, or three. */
static __always_inline bool has_at(__u64 text, const char what[4])
{
	char read[4] = {};

	bpf_probe_read_kernel(read, sizeof(read), (void *)text);
	return read[0] == what[0] && read[1] == what[1] && read[2] == what[2] &&
	       (read[3] == what[3] || !what[3]);
}

/* The same of a cgroup's name, which the cgroupfs and systemd drivers write differently. */
WALK __u64 name_uid(__u64 name, __u32 half)
{
	const char pod[4] = { 'p', 'o', 'd' }, dash_pod[4] = { '-', 'p', 'o', 'd' };
	const char dot_slice[4] = { '.', 's', 'l', 'i' }, slice[4] = { 'l', 'i', 'c', 'e' };
	int length = name_length(name);
	__u64 end = name + length - 6; /* of what is before .slice */
	__u64 found;

	if (length == 3 + UUID_LENGTH && has_at(name, pod))
		return digits_read(name + 3, '-', half);
	if (length == 3 + DIGITS_LENGTH && has_at(name, pod))
		return digits_read(name + 3, 0, half);
	if (length < 4 + DIGITS_LENGTH + 6 || !has_at(end, dot_slice) || !has_at(end + 2, slice))
		return 0;
	if (length >= 4 + UUID_LENGTH + 6 && has_at(end - UUID_LENGTH - 4, dash_pod)) {
		found = digits_read(end - UUID_LENGTH, '_', half);
		if (found)
			return found;
	}
	if (has_at(end - DIGITS_LENGTH - 4, dash_pod))
		return digits_read(end - DIGITS_LENGTH, 0, half);
	return 0;
}

#define MAX_DEPTH 128 /* a pod may make cgroups as deep as it likes */
#define TOO_DEEP 1

/* The cgroup, if it is root's and named as a pod's; else `other`. */
WALK __u64 pods_cgroup_or(__u64 number, __u64 other)
{
	struct cgroup *cgroup = (void *)number;
	struct kernfs_iattrs *attributes = BPF_CORE_READ(cgroup, kn, iattr);

	if (attributes && BPF_CORE_READ(attributes, ia_uid.val))
		return other;
	return name_uid((__u64)BPF_CORE_READ(cgroup, kn, name), 0) ? number : other;
}

#define AT_TOP 1 /* no cgroup's number */

/* What a cgroup is in; AT_TOP: that is the one of the id top; 0: it is the root. */
WALK __u64 cgroup_above(__u64 number, __u64 top)
{
	struct cgroup *above = BPF_CORE_READ((struct cgroup *)number, self.parent, cgroup);

	return above && BPF_CORE_READ(above, kn, id) == top ? AT_TOP : (__u64)above;
}

/* The topmost cgroup below -c that is root's and named as a pod's; 0: none, or TOO_DEEP. */
WALK __u64 pod_cgroup(__u64 cgroup)
{
	const struct settings *cfg = current_settings();
	__u64 top = cfg ? cfg->root_cgroup : 0, found = 0;

	if (BPF_CORE_READ((struct cgroup *)cgroup, kn, id) == top)
		return 0;
	for (int i = 0; i < MAX_DEPTH && cgroup > AT_TOP; i++) {
		found = pods_cgroup_or(cgroup, found);
		cgroup = cgroup_above(cgroup, top);
	}
	if (cgroup > AT_TOP)
		return TOO_DEEP;
	return cgroup == AT_TOP || !top ? found : 0; /* it is not below -c */
}

static __always_inline union uid pod_uid(__u64 cgroup)
{
	__u64 name = (__u64)BPF_CORE_READ((struct cgroup *)cgroup, kn, name);

	return (union uid){ .half = { bpf_cpu_to_be64(name_uid(name, 0)),
				      bpf_cpu_to_be64(name_uid(name, 1)) } };
}

/* Notes with the cgroup's entry whether it is a pod's: nobody need look again. */
WALK int cgroup_note_uid(__u64 cgroup)
{
	__u64 id = BPF_CORE_READ((struct cgroup *)cgroup, kn, id);
	struct cgroup_info *entry = bpf_map_lookup_elem(&cgroup_info_map, &id);

	if (entry && !(entry->now.flags & (NETNS_NO_UID | NETNS_UID)))
		entry->now.flags |= pod_cgroup(cgroup) ? NETNS_UID : NETNS_NO_UID;
	return 0;
}

/* Whether a pod's netns is its own still: a sandbox that is made anew has another. */
WALK int netns_is_lived_in(__u64 net, __u64 netns)
{
	/* Whoever holds it open, as ztunnel does, keeps it, but not its devices. */
	return netns_id((struct net *)net) == netns &&
	       BPF_CORE_READ((struct net *)net, passive.refs.counter) &&
	       (netns_pod(net, V4, false) || netns_pod(net, V6, false));
}

static __always_inline void pod_event(const union uid *uid, __u64 netns, __u32 pid)
{
	struct pod_event event = { .uid = *uid, .netns = netns, .pid = pid };

	if (bpf_ringbuf_output(&pod_events, &event, sizeof(event), 0))
		count(STAT_EVENTS_LOST);
}

/* It is no pod's any more: its numbers are left to the next exec. */
static __always_inline void netns_let_go(__u64 netns)
{
	bpf_map_delete_elem(&pod_netns, &netns);
	bpf_map_push_elem(&homeless, &netns, BPF_EXIST);
}

/*
 * Whether the pod may have the netns as its own, whose entry is as it is; what it had
 * before that is taken out.
 */
static __always_inline bool makes_way(const union uid *uid, __u64 netns)
{
	struct uid_netns *own = bpf_map_lookup_elem(&uid_netns, uid);
	struct pod_netns *known = bpf_map_lookup_elem(&pod_netns, &netns);
	__u64 before;

	if (own && own->netns != netns && netns_is_lived_in(own->net, own->netns))
		return false;
	if (own) {
		before = own->netns;
		bpf_map_delete_elem(&uid_netns, uid); /* first: see netns_take() */
		if (before != netns)
			netns_let_go(before);
	}
	if (known) {
		union uid other = known->uid;

		bpf_map_delete_elem(&uid_netns, &other);
	}
	return true;
}

/*
 * Gives the pod its netns, unless another CPU gives it another, or the netns to another:
 * an entry of pod_netns that is not its pod's own would stay for ever. The next program
 * there says it again.
 */
static __always_inline int netns_take(const struct pod_netns *fresh, const struct uid_netns *mine,
				      __u64 flags)
{
	__u64 netns = mine->netns;
	struct uid_netns *own;
	int err; /* as the kernel's: 5.10 returns no long */

	err = bpf_map_update_elem(&uid_netns, &fresh->uid, mine, BPF_NOEXIST);
	if (err)
		return err;
	err = bpf_map_update_elem(&pod_netns, &netns, fresh, flags);
	if (err) {
		bpf_map_delete_elem(&uid_netns, &fresh->uid);
		return err;
	}
	own = bpf_map_lookup_elem(&uid_netns, &fresh->uid);
	if (own && own->netns == netns)
		return 0;
	bpf_map_delete_elem(&pod_netns, &netns);
	return -EEXIST;
}

/*
 * A program runs in the netns at `net`, in a cgroup. in_transit: that cgroup has been in
 * another netns. Such a one may be a node's agent in another pod's netns, before
 * that pod has run anything; so the claim of one that has not is better. What a runtime
 * does there on its way is not learned at all: is_runtimes().
 */
WALK int pod_learn(__u64 cgroup, __u64 net, __u32 pid, bool in_transit)
{
	struct pod_netns fresh = { .net = net, .in_transit = in_transit };
	__u64 netns = netns_id((struct net *)net);
	struct pod_netns *known = bpf_map_lookup_elem(&pod_netns, &netns);
	struct uid_netns own = { .netns = netns, .net = net };
	__u64 pods;
	int err;

	if (known && (in_transit || !known->in_transit))
		return 0;
	pods = pod_cgroup(cgroup);
	if (pods <= TOO_DEEP)
		return 0;
	fresh.uid = pod_uid(pods);
	own.cgroup = BPF_CORE_READ((struct cgroup *)pods, kn, id);
	if (!makes_way(&fresh.uid, netns))
		return 0;
	err = netns_take(&fresh, &own, known ? BPF_EXIST : BPF_NOEXIST);
	if (!err)
		pod_event(&fresh.uid, netns, pid);
	else if (err != -EEXIST)
		count(STAT_UIDS_FULL);
	return 0;
}

/* The cgroup is going: if it is a pod's, the pod is gone. */
WALK int pod_forget(__u64 cgroup)
{
	struct uid_netns *own;
	union uid uid;
	__u64 netns;

	if (pod_cgroup(cgroup) != cgroup)
		return 0;
	uid = pod_uid(cgroup);
	own = bpf_map_lookup_elem(&uid_netns, &uid);
	/* Another of that name may be anybody's who may make cgroups. */
	if (!own || own->cgroup != BPF_CORE_READ((struct cgroup *)cgroup, kn, id))
		return 0;
	netns = own->netns;
	bpf_map_delete_elem(&uid_netns, &uid);
	netns_let_go(netns);
	pod_event(&uid, 0, 0);
	return 0;
}

static __always_inline __u32 uid_word(const union uid *uid)
{
	__u32 *word = bpf_map_lookup_elem(&mesh_pods, uid);

	return POD_HAS_UID | (word ? *word : 0);
}

/* What mesh_pods says of a netns' pod, and POD_HAS_UID; 0: it is no pod's that is known. */
static __always_inline __u32 netns_word(__u64 netns)
{
	struct pod_netns *known = bpf_map_lookup_elem(&pod_netns, &netns);

	return known ? uid_word(&known->uid) : 0;
}

/* The same of the pod of the caller's cgroup. */
WALK __u32 caller_word(void)
{
	__u64 pods = pod_cgroup((__u64)current_cgroup());
	union uid uid;

	if (pods == TOO_DEEP)
		return POD_IN; /* whose it is cannot be told: it is refused there */
	if (!pods)
		return 0;
	uid = pod_uid(pods);
	return uid_word(&uid);
}

/*
 * The same for a connect(): of a netns that is not known the caller's cgroup is asked,
 * unless no_uid: it is no pod's. What is claimed in transit is no knowledge of whose it is.
 */
static __always_inline __u32 word_here(__u64 netns, bool no_uid)
{
	struct pod_netns *known = bpf_map_lookup_elem(&pod_netns, &netns);
	__u32 word = 0;

	if (!no_uid && (!known || known->in_transit))
		word = caller_word();
	if (!word && known)
		word = uid_word(&known->uid);
	return word;
}

#endif
