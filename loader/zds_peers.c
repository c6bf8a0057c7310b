// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: ztunnels, and what each is told: one request at a time, each by itself.
 * First Add and Keep, then SnapshotSent, then Add and Del alone. One that is silent, or
 * says what it may not, is dropped: it dials again, and nobody else waits for it.
 */
#include "zds_peers.h"

#define HEED 3000 /* after all have answered */

struct peer peers[PEERS];
struct peer_counts peer_counts;

static __u64 heeded_until; /* all that are, at least */
static bool said_cannot_heed;

void drop(struct peer *peer, const char *why)
{
	log_event("dropped", "pid=%d reason=\"%s\"", peer->pid, why);
	peer_counts.dropped++;
	unwatch(peer->fd);
	if (peer->asked && peer->asked->by[peer - peers] == ADDED)
		pod_hold(peer->asked);
	pods_forget_peer(peer - peers);
	free(peer->cgroup);
	*peer = (struct peer){};
}

bool heed(struct peer *peer)
{
	int err = peer->is_heeded ? 0 : bpf_listening_noted(peer->cgroup, true);

	if (err && !said_cannot_heed)
		log_event("cannot-note", "pid=%d error=\"%s\"", peer->pid, strerror(-err));
	said_cannot_heed = err;
	peer->is_heeded = !err;
	heeded_until = now() + HEED;
	wake_in(HEED);
	return !err;
}

/* Whether nobody is about to listen: all know all, and have answered. */
static bool are_settled(void)
{
	bool any = false;

	for (struct peer *peer = peers; peer < peers + PEERS; peer++) {
		if (peer->fd && (!peer->has_snapshot || peer->is_asked))
			return false;
		any = any || peer->fd;
	}
	for (struct pod *pod = pods; pod; pod = pod->next)
		for (int i = 0; i < PEERS; i++)
			if (peers[i].fd && pod->by[i] == NACKED) /* it may try by itself */
				return false;
	return any;
}

/* False: to be tried again. */
static bool heed_no_more(void)
{
	bool all = true;

	for (struct peer *peer = peers; peer < peers + PEERS; peer++) {
		peer->is_heeded = false;
		if (peer->fd && bpf_listening_noted(peer->cgroup, false))
			all = false;
	}
	return all;
}

int peer_newest(void)
{
	int newest = -1;

	for (int i = 0; i < PEERS; i++)
		if (peers[i].fd && peers[i].has_hello &&
		    (newest < 0 || peers[i].start >= peers[newest].start))
			newest = i;
	return newest;
}

bool peers_any(void)
{
	for (int i = 0; i < PEERS; i++)
		if (peers[i].fd && peers[i].has_snapshot)
			return true;
	return false;
}

const char *peer_cgroup(int peer)
{
	return peers[peer].cgroup;
}

/* Tells what a pod is to be told. False: nothing now. */
static bool tell_pod(struct peer *peer, struct pod *pod)
{
	int number = peer - peers;
	enum told by = pod->by[number];
	bool is_due = now() >= pod->retry[number], is_held = now() < pod->held_until;
	bool may_add;

	if (!is_due && (by == TO_GO || by == NACKED))
		wake_in(pod->retry[number] - now());
	if (by == TO_GO && is_due) {
		tell_del(peer, pod);
		return true;
	}
	may_add = pod->is_tellable && !is_held && (by == UNTOLD || by == KEPT || by == NACKED) &&
		  (is_due || !pod->nacks[number]);
	if (may_add && heed(peer)) {
		tell_add(peer, pod);
		return true;
	}
	/* What is not named by the snapshot is let go of: so also what cannot be added yet. */
	if (!peer->has_snapshot && by == UNTOLD && pod->is_said && pod->is_there &&
	    (!pod->is_tellable || is_held || may_add)) {
		tell_keep(peer, pod);
		return true;
	}
	return false;
}

static void tell(struct peer *peer)
{
	for (struct pod *pod = pods; pod; pod = pod->next)
		if (tell_pod(peer, pod))
			return;
	if (!peer->has_snapshot)
		tell_snapshot(peer);
}

void peers_tell(void)
{
	for (struct peer *peer = peers; peer < peers + PEERS; peer++)
		if (peer->fd && peer->has_hello && !peer->is_asked)
			tell(peer);
}

void peers_tick(void)
{
	socket_tick();
	for (struct peer *peer = peers; peer < peers + PEERS; peer++) {
		if (!peer->fd || (peer->has_hello && !peer->is_asked))
			continue;
		if (now() < peer->deadline) {
			wake_in(peer->deadline - now());
			continue;
		}
		drop(peer, peer->has_hello ? "no answer within 30 s" : "no hello within 5 s");
	}
	if (heeded_until && now() >= heeded_until && are_settled())
		heeded_until = heed_no_more() ? 0 : now() + HEED;
}
