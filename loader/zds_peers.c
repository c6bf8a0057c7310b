// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: ztunnels, and what each is told: one request at a time, each by itself.
 * First Add and Keep, then SnapshotSent, then Add and Del alone. One that is silent, or
 * says what it may not, is dropped: it dials again, and nobody else waits for it.
 */
#include "zds.h"
#include "zds.pb-c.h"
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define HELLO_WITHIN 5000
#define ACK_WITHIN 30000
#define ACCEPTS 5 /* a second */
#define REST 200  /* of the listener's, where these are too many */
#define HEED 3000 /* after all have answered */

static struct peer {
	int fd; /* 0: free */
	pid_t pid;
	unsigned long long start; /* of the process, as /proc/PID/stat has it */
	bool has_hello;
	bool has_snapshot;
	bool is_asked;	   /* a request is under way */
	struct pod *asked; /* about it; NULL: the snapshot */
	bool asked_del;
	__u64 deadline;
	char *cgroup;	/* of its pod */
	bool is_heeded; /* where it begins to listen is noted */
} peers[PEERS];

struct peer_counts peer_counts;

static int listener = -1; /* -1: we stand by */
static ino_t own;	  /* of its socket */
static bool said_standing_by;
static bool said_cannot; /* listen; or at the start, where it is said in another way */
static bool some_cannot_join, said_cannot_join; /* ztunnels, in a round; and that was told */
static __u64 look_at;
static __u64 rests_until;      /* the listener; 0: it does not */
static __u64 accepts[ACCEPTS]; /* when the last ones were */
static __u64 heeded_until;     /* all that are, at least */
static bool said_cannot_heed;

static void drop(struct peer *peer, const char *why)
{
	log_event("dropped", "pid=%d reason=\"%s\"", peer->pid, why);
	peer_counts.dropped++;
	unwatch(peer->fd);
	if (peer->asked && !peer->asked_del)
		pod_hold(peer->asked);
	pods_forget_peer(peer - peers);
	free(peer->cgroup);
	*peer = (struct peer){};
}

/*
 * Before it may listen somewhere: not until it is told of a pod. False: that cannot be
 * noted now, and so is not to be.
 */
static bool heed(struct peer *peer)
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

static struct peer *peer_of(int fd)
{
	for (struct peer *peer = peers; peer < peers + PEERS; peer++)
		if (peer->fd == fd)
			return peer;
	return NULL;
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

bool peers_stand_by(void)
{
	return said_standing_by;
}

bool peers_serve(void)
{
	return listener >= 0 || said_standing_by;
}

/* When the process began, in the kernel's ticks; 0: it is gone. */
static unsigned long long start_of(pid_t pid)
{
	unsigned long long start = 0;
	char path[64], text[1024], *field;
	size_t got;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	got = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[got] = '\0';
	field = strrchr(text, ')'); /* of its name, which may be anything */
	for (int i = 2; field && i < 22; i++) field = strchr(field + 1, ' ');
	if (field)
		sscanf(field, "%llu", &start);
	return start;
}

/* NULL: who dials is a ztunnel, and BPF knows it; else why it is turned away. */
static const char *turned_away(int fd, struct peer *peer)
{
	struct ucred credentials = {};
	socklen_t size = sizeof(credentials);
	const char *cgroup;
	int err;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) || !credentials.pid)
		return "not to be seen from here: give hostPID";
	peer->pid = credentials.pid;
	peer->start = start_of(peer->pid);
	cgroup = cgroup_of_ztunnel(peer->pid);
	if (!cgroup)
		return "its pod is not in ztunnels";
	/* Twice, for the pid might be another's by now. */
	if (!peer->start || start_of(peer->pid) != peer->start)
		return "it is gone";
	err = bpf_ztunnel_joins(cgroup);
	if (err == -EUSERS)
		return "four ztunnels are known";
	if (err)
		return strerror(-err);
	peer->cgroup = strdup(cgroup);
	return peer->cgroup ? NULL : strerror(ENOMEM);
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

static void on_peer(int fd)
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

static void tell_add(struct peer *peer, struct pod *pod)
{
	Zds__Identity identity = ZDS__IDENTITY__INIT;
	Zds__Add add = ZDS__ADD__INIT;

	if (!*pod->told.name) {
		pod->told = pod->said;
		pod->has_told = told_write(pod->text, &pod->told);
	}
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

static void tell_del(struct peer *peer, struct pod *pod)
{
	Zds__Del del = ZDS__DEL__INIT;

	del.uid = pod->text;
	if (config.verbose)
		log_event("del", "pid=%d uid=%s", peer->pid, pod->text);
	ask(peer, ZDS__REQUEST__WHAT_DEL, &del, pod, -1);
}

static void tell_keep(struct peer *peer, struct pod *pod)
{
	Zds__Keep keep = ZDS__KEEP__INIT;

	keep.uid = pod->text;
	pod->by[peer - peers] = KEPT;
	if (config.verbose)
		log_event("keep", "pid=%d uid=%s", peer->pid, pod->text);
	ask(peer, ZDS__REQUEST__WHAT_KEEP, &keep, pod, -1);
}

static void tell_snapshot(struct peer *peer)
{
	Zds__SnapshotSent snapshot = ZDS__SNAPSHOT_SENT__INIT;

	log_event("snapshot", "pid=%d", peer->pid);
	ask(peer, ZDS__REQUEST__WHAT_SNAPSHOT_SENT, &snapshot, NULL, -1);
}

/* Tells what a pod is to be told. False: nothing now. */
static bool tell_pod(struct peer *peer, struct pod *pod)
{
	int number = peer - peers;
	enum told by = pod->by[number];
	bool is_due = now() >= pod->retry[number], is_held = now() < pod->held_until;

	if (!is_due && (by == TO_GO || by == NACKED))
		wake_in(pod->retry[number] - now());
	if (by == TO_GO && is_due) {
		tell_del(peer, pod);
		return true;
	}
	if (pod->is_tellable && !is_held && (by == UNTOLD || by == KEPT || by == NACKED) &&
	    (is_due || !pod->nacks[number])) {
		if (!heed(peer))
			return false;
		tell_add(peer, pod);
		return true;
	}
	if (!peer->has_snapshot && by == UNTOLD && pod->is_said && pod->is_there &&
	    (!pod->is_tellable || is_held)) {
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

/* Whether one more may be let in within this second; if not, then later. */
static bool may_accept(void)
{
	__u64 *oldest = &accepts[0];

	for (int i = 0; i < ACCEPTS; i++)
		if (accepts[i] < *oldest)
			oldest = &accepts[i];
	if (*oldest && now() < *oldest + 1000)
		return false;
	*oldest = now();
	return true;
}

static struct peer *peer_free(void)
{
	for (struct peer *peer = peers; peer < peers + PEERS; peer++)
		if (!peer->fd)
			return peer;
	return NULL;
}

static void let_in(int fd)
{
	struct peer *peer = peer_free(), new = {};
	const char *why = peer ? turned_away(fd, &new) : "too many are connected";
	static pid_t last; /* so that one that tries on and on is told of once */

	if (why) {
		if (new.pid != last)
			log_event("turned-away", "pid=%d reason=\"%s\"", new.pid, why);
		last = new.pid;
		peer_counts.turned_away++;
		close(fd);
		return;
	}
	peer_counts.connections++;
	*peer = new;
	peer->fd = fd;
	peer->deadline = now() + HELLO_WITHIN;
	wake_in(HELLO_WITHIN);
	watch(fd, on_peer);
	heed(peer);
	log_event("connected", "pid=%d", peer->pid);
}

static void address_of(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	/* peers_open() has seen to it that it is short enough. */
	memcpy(address->sun_path, path, strnlen(path, sizeof(address->sun_path) - 1));
}

/* Whether somebody answers at the socket that is there. */
static bool another_answers(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;
	bool answers;

	if (fd < 0)
		return false;
	address_of(config.socket, &address);
	answers = !connect(fd, (struct sockaddr *)&address, sizeof(address)) || errno == EAGAIN;
	close(fd);
	return answers;
}

/* Under another name, then in place: who dials finds one that listens, or none. */
static int listener_make(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err;
	struct sockaddr_un address;
	struct stat status;
	char new[PATH_MAX];

	if (fd < 0)
		return -errno;
	snprintf(new, sizeof(new), "%s.%d", config.socket, getpid());
	address_of(new, &address);
	unlink(new);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || chmod(new, 0600) ||
	    listen(fd, 16) || stat(new, &status) || rename(new, config.socket)) {
		err = -errno;
		unlink(new);
		close(fd);
		return err;
	}
	own = status.st_ino;
	return fd;
}

static void on_dial(int fd)
{
	int client = -1;

	if (may_accept())
		client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (client >= 0) {
		let_in(client);
		return;
	}
	/* One too many in this second, or no descriptor for it: it waits, and so do we. */
	watch_rests(fd, true);
	rests_until = now() + REST;
}

static void ztunnel_join(const union uid *uid)
{
	const char *cgroup = cgroup_of(uid);
	int err = cgroup ? bpf_ztunnel_joins(cgroup) : 0;

	/* It may listen without us: another tells it what to do, for now. */
	if (!err && cgroup && said_standing_by)
		err = bpf_listening_noted(cgroup, true);
	if (!err || err == -EAGAIN)
		return;
	some_cannot_join = true;
	if (!said_cannot_join)
		log_event("cannot-join", "cgroup=%s error=\"%s\"", cgroup, strerror(-err));
}

/* Before they dial, for they may have to dial others first. */
static void ztunnels_join(void)
{
	some_cannot_join = false;
	listed_each(ZTUNNELS_LIST, ztunnel_join);
	said_cannot_join = some_cannot_join;
}

void ztunnel_appeared(const union uid *uid)
{
	char text[UID_STRLEN];

	uid_write(uid, text);
	if (listener >= 0 && is_listed(ZTUNNELS_LIST, text))
		ztunnel_join(uid);
}

static void look(void)
{
	struct stat status;

	look_at = now() + BEAT;
	if (listener >= 0 || (said_standing_by && files_take_over()))
		ztunnels_join();
	if (listener >= 0 && !stat(config.socket, &status) && status.st_ino == own)
		return;
	if (listener >= 0) {
		log_event("socket-lost", "path=%s", config.socket);
		unwatch(listener);
		listener = -1;
	}
	if (another_answers()) {
		if (!said_standing_by)
			log_event("standing-by", "path=%s reason=\"another server answers\"",
				  config.socket);
		said_standing_by = true;
		for (struct peer *peer = peers; peer < peers + PEERS; peer++)
			if (peer->fd)
				drop(peer, "another server answers"); /* and tells it all */
		return;
	}
	said_standing_by = false;
	listener = listener_make();
	if (listener < 0) {
		if (!said_cannot)
			log_event("cannot-listen", "path=%s error=\"%s\"", config.socket,
				  strerror(-listener));
		said_cannot = true;
		listener = -1;
		return;
	}
	said_cannot = false;
	rests_until = 0;
	watch(listener, on_dial);
	bpf_events_watch();
	pods_recall();
	log_event("listening", "path=%s", config.socket);
}

void peers_open(void)
{
	struct sockaddr_un address;
	char pid[16];

	snprintf(pid, sizeof(pid), ".%d", getpid());
	if (strlen(config.socket) + strlen(pid) >= sizeof(address.sun_path))
		die("%s: too long for a socket: give -s", config.socket);
	said_cannot = true;
	look();
	if (!peers_serve())
		die("%s: cannot listen there: give -s", config.socket);
}

void peers_tick(void)
{
	if (now() >= look_at)
		look();
	if (rests_until && now() >= rests_until && listener >= 0) {
		watch_rests(listener, false);
		rests_until = 0;
	}
	if (rests_until)
		wake_in(REST);
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
