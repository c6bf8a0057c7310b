// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: the list of pods, and what BPF's events and ztunnels' answers say of one. */
#include "zds_pods.h"

#define RETRY 1000	  /* after a NACK */
#define RETRY_LATER 30000 /* after three */
#define NACKS 3

struct pod *pods;
struct pod_counts pod_counts;

struct pod *pod_find(const union uid *uid)
{
	for (struct pod *pod = pods; pod; pod = pod->next)
		if (!memcmp(&pod->uid, uid, sizeof(*uid)))
			return pod;
	return NULL;
}

struct pod *pod_of(const union uid *uid)
{
	struct pod *pod = pod_find(uid);

	if (pod)
		return pod;
	pod = calloc(1, sizeof(*pod));
	if (!pod)
		return NULL;
	pod->uid = *uid;
	pod->netns_fd = -1;
	pod->has_dns = -1;
	pod->is_there = true; /* until BPF says that it is not: it is not to be let go of */
	pod->is_due = true;
	uid_write(uid, pod->text);
	pod->next = pods;
	pods = pod;
	return pod;
}

bool pod_has_ended(const struct pod *pod)
{
	__u64 netns;

	return (pod->was_there || *pod->told.name) && bpf_netns_of(&pod->uid, &netns) && !netns;
}

struct pod **unhang(struct pod *pod)
{
	struct pod **at = &pods;

	while (*at != pod) at = &(*at)->next;
	*at = pod->next;
	return at;
}

void pod_to_the_end(struct pod *pod)
{
	struct pod **at = unhang(pod);

	while (*at) at = &(*at)->next;
	*at = pod;
	pod->next = NULL;
}

void told_is_said(struct pod *pod)
{
	pod->told = pod->said;
	pod->has_told = told_write(pod->text, &pod->told);
}

/* The pod that BPF tells of, which is looked at; NULL: nobody has said anything of it. */
static struct pod *pod_stirs(const union uid *uid, pid_t pid)
{
	struct pod *pod = pod_find(uid);

	if (!pod)
		return NULL;
	pod->pid = pid;
	pod->was_there = true;
	pod->is_due = true;
	return pod;
}

void pod_appeared(const union uid *uid, pid_t pid)
{
	struct pod *pod = pod_stirs(uid, pid);

	if (pod)
		pod->is_there = true;
}

void pod_ended(const union uid *uid)
{
	pod_stirs(uid, 0);
}

static void nacked(struct pod *pod, int peer, const char *error)
{
	pod->nacks[peer]++;
	pod->retry[peer] = now() + RETRY;
	log_event("nack", "uid=%s count=%d reason=\"%.500s\"", pod->text, pod->nacks[peer], error);
	pod->by[peer] = NACKED;
	if (pod->nacks[peer] % NACKS == 0) {
		pod->by[peer] = TO_GO;
		pod->retry[peer] = now();
	}
	if (!pod->is_enabled)
		pend(pod, "ztunnel: %s", error);
}

void pod_answered(struct pod *pod, int peer, bool was_del, const char *error)
{
	pod->is_due = true;
	if (was_del) {
		pod->by[peer] = UNTOLD;
		if (pod->nacks[peer])
			pod->retry[peer] = now() + RETRY_LATER;
		return;
	}
	if (pod->by[peer] != ADDED)
		return; /* Keep; or it is to go, or has another netns, by now */
	if (error) {
		nacked(pod, peer, error);
		return;
	}
	/* It may have listened there before it was known as a ztunnel. */
	if (pod->netns_fd >= 0 && bpf_note_of(pod->netns_fd, peer_cgroup(peer)))
		log_event("listeners-not-noted", "uid=%s", pod->text);
	else if (pod->netns_fd >= 0)
		pod->may_be_served = false;
	pod->by[peer] = ACKED;
	pod->nacks[peer] = 0;
	pod->drops = 0;
}

void pod_hold(struct pod *pod)
{
	pod->drops++;
	pod->held_until = now() + (pod->drops < NACKS ? RETRY : RETRY_LATER);
}

/* One that served a pod may have been in the way of those that could not: they are asked anew. */
static void nacks_forget(struct pod *pod)
{
	for (int peer = 0; peer < PEERS; peer++) {
		if (!pod->nacks[peer])
			continue;
		pod->nacks[peer] = 0;
		pod->retry[peer] = now();
	}
}

void pods_forget_peer(int peer)
{
	for (struct pod *pod = pods; pod; pod = pod->next) {
		if (pod->by[peer] != UNTOLD)
			pod->is_due = true;
		if (pod->by[peer] == ACKED || pod->by[peer] == KEPT)
			nacks_forget(pod);
		pod->by[peer] = UNTOLD;
		pod->nacks[peer] = 0;
	}
}
