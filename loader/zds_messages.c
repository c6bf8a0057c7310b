// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: the messages between it and a ztunnel, as zds.proto has them. */
#include "zds_peers.h"
#include "zds.pb-c.h"
#include <sys/socket.h>

#define ACK_WITHIN 30000

static struct peer *peer_of(int fd)
{
	for (struct peer *peer = peers; peer < peers + PEERS; peer++)
		if (peer->fd == fd)
			return peer;
	return NULL;
}

/* From what it said; NULL: it cannot be read. To be freed by the library. */
static Zds__Response *response_read(const __u8 *data, size_t size)
{
	Zds__Response *response = zds__response__unpack(NULL, size, data);

	if (!response)
		return NULL;
	if (response->what_case == ZDS__RESPONSE__WHAT_ACK && !response->base.n_unknown_fields)
		return response;
	zds__response__free_unpacked(response, NULL);
	return NULL;
}

static void take_hello(struct peer *peer, const __u8 *data, size_t size)
{
	Zds__Hello *hello = zds__hello__unpack(NULL, size, data);
	bool good = hello && hello->version == 1;

	if (hello)
		zds__hello__free_unpacked(hello, NULL);
	if (!good) {
		drop(peer, "no hello of version 1");
		return;
	}
	peer->has_hello = true;
	log_event("hello", "pid=%d", peer->pid);
}

/* What another says, so that it is good between quotes: in a line, a file, a label. */
static void make_plain(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~' || *text == '"' || *text == '\\')
			*text = '?';
}

static void take_answer(struct peer *peer, const __u8 *data, size_t size)
{
	struct pod *pod = peer->asked;
	Zds__Response *response;
	char *error;

	response = peer->is_asked ? response_read(data, size) : NULL;
	if (!response) {
		drop(peer, peer->is_asked ? "not an answer" : "nobody asked");
		return;
	}
	error = response->ack->error;
	error = error && *error ? error : NULL;
	if (error) {
		make_plain(error);
		peer_counts.nacks++;
	} else {
		peer_counts.acks++;
	}
	peer->is_asked = false;
	peer->asked = NULL;
	if (pod)
		pod_answered(pod, peer - peers, peer->asked_del, error);
	else
		peer->has_snapshot = true;
	zds__response__free_unpacked(response, NULL);
}

void on_peer(int fd)
{
	struct peer *peer = peer_of(fd);
	__u8 data[4 * MAX_PACKET]; /* why it cannot may be a long story */
	struct iovec part = { data, sizeof(data) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t got;

	if (!peer)
		return;
	got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0)
		drop(peer, "it has gone");
	else if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		drop(peer, "too long, or with descriptors");
	else if (!peer->has_hello)
		take_hello(peer, data, got);
	else
		take_answer(peer, data, got);
}

/* Sends a request, with a descriptor if that is not -1. */
static void ask(struct peer *peer, Zds__Request__WhatCase what, void *body, struct pod *pod, int fd)
{
	Zds__Request request = ZDS__REQUEST__INIT;
	__u8 data[MAX_PACKET];
	struct iovec part = { .iov_base = data };
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control = {};
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	request.what_case = what;
	request.add = body; /* whichever it is: a pointer all the same */
	if (zds__request__get_packed_size(&request) > sizeof(data)) {
		drop(peer, "a request too long"); /* names are shorter than that */
		return;
	}
	part.iov_len = zds__request__pack(&request, data);
	if (fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.aligned.cmsg_level = SOL_SOCKET;
		control.aligned.cmsg_type = SCM_RIGHTS;
		control.aligned.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.aligned), &fd, sizeof(fd));
	}
	peer->is_asked = true;
	peer->asked = pod;
	peer->asked_del = what == ZDS__REQUEST__WHAT_DEL;
	peer->deadline = now() + ACK_WITHIN;
	if (sendmsg(peer->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)part.iov_len)
		drop(peer, strerror(errno));
}

void tell_add(struct peer *peer, struct pod *pod)
{
	Zds__Identity identity = ZDS__IDENTITY__INIT;
	Zds__Add add = ZDS__ADD__INIT;

	if (!*pod->told.name)
		told_is_said(pod);
	identity.name = pod->told.name;
	identity.namespace_ = pod->told.namespace;
	identity.service_account = pod->told.service_account;
	add.uid = pod->text;
	add.identity = &identity;
	pod->by[peer - peers] = ADDED;
	if (config.verbose)
		log_event("add", "pid=%d uid=%s", peer->pid, pod->text);
	ask(peer, ZDS__REQUEST__WHAT_ADD, &add, pod, pod->netns_fd);
}

void tell_del(struct peer *peer, struct pod *pod)
{
	Zds__Del del = ZDS__DEL__INIT;

	del.uid = pod->text;
	if (config.verbose)
		log_event("del", "pid=%d uid=%s", peer->pid, pod->text);
	ask(peer, ZDS__REQUEST__WHAT_DEL, &del, pod, -1);
}

void tell_keep(struct peer *peer, struct pod *pod)
{
	Zds__Keep keep = ZDS__KEEP__INIT;

	keep.uid = pod->text;
	pod->by[peer - peers] = KEPT;
	if (config.verbose)
		log_event("keep", "pid=%d uid=%s", peer->pid, pod->text);
	ask(peer, ZDS__REQUEST__WHAT_KEEP, &keep, pod, -1);
}

void tell_snapshot(struct peer *peer)
{
	Zds__SnapshotSent snapshot = ZDS__SNAPSHOT_SENT__INIT;

	log_event("snapshot", "pid=%d", peer->pid);
	ask(peer, ZDS__REQUEST__WHAT_SNAPSHOT_SENT, &snapshot, NULL, -1);
}
