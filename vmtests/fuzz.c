// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * For libFuzzer: what others may say to onramp-zds. A file's text, a cgroup's name, and
 * up to three ztunnels that say what they like while pods come, go and change. The last
 * byte tells which; what is before it is the text, or one step a byte or two.
 *
 * Beside what ASan and UBSan find: no ztunnel is ever told what it would end for, none may
 * begin to listen unnoted, and once all has become quiet each knows the pods that it is to
 * know, and no other, and none is noted any more. Time is what
 * the steps say, pods and their netns are made up; the packets and descriptors are real.
 * FUZZ_LOG=1 build/fuzz FILE tells what happens.
 */
#include "../loader/zds_messages.c"
#include "../loader/zds_socket.c"

#include "../loader/netns.h"
#include <assert.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/mman.h>

#define ZTUNNELS_HERE 3
#define PODS 3
#define NETNS 4 /* 0: none */

struct config config = { .socket = "none", .dir = "none", .status_dir = "none" };

static __u64 time_now = 1000000;

__u64 now(void)
{
	return time_now;
}

void wake_in(unsigned int milliseconds)
{
	(void)milliseconds;
}

void watch(int fd, void (*act)(int fd))
{
	(void)fd;
	(void)act;
}

void watch_rests(int fd, bool rests)
{
	(void)fd;
	(void)rests;
}

void unwatch(int fd)
{
	close(fd);
}

void log_event(const char *event, const char *format, ...)
{
	char line[1024];
	va_list args;

	assert(*event);
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (config.verbose)
		fprintf(stderr, "%llu event=%s %s\n", time_now, event, line);
}

void die(const char *format, ...)
{
	(void)format;
	abort();
}

/* What BPF and the cgroups have of the pods. */

static int netns_files[NETNS];
static __u64 netns_now[PODS];
static __u32 rules[PODS];
static bool netns_is_hidden[PODS];
static bool bpf_fails;
static bool is_noted[ZTUNNELS_HERE]; /* where it begins to listen */

static union uid uid_number(unsigned int number)
{
	return (union uid){ .byte = { [15] = number } };
}

static unsigned int number_of(const union uid *uid)
{
	return uid->byte[15] % PODS;
}

bool bpf_netns_of(const union uid *uid, __u64 *netns)
{
	if (bpf_fails)
		return false;
	*netns = netns_now[number_of(uid)];
	return true;
}

__u32 bpf_rule(const union uid *uid)
{
	return rules[number_of(uid)];
}

int bpf_rule_write(const union uid *uid, __u32 bits)
{
	if (bpf_fails)
		return -E2BIG;
	rules[number_of(uid)] = bits;
	return 0;
}

void bpf_each(void (*act)(const union uid *uid))
{
	for (unsigned int i = 0; i < PODS; i++) {
		union uid uid = uid_number(i);

		if (rules[i])
			act(&uid);
	}
}

bool bpf_is_led(const char *uid, int netns_fd)
{
	(void)uid;
	(void)netns_fd;
	return false;
}

int bpf_lead(const char *uid, int netns_fd, bool bypass, bool beside)
{
	(void)uid;
	(void)bypass;
	(void)beside;
	assert(netns_fd >= 0);
	return bpf_fails ? -EPERM : 0;
}

bool bpf_is_served(int netns_fd)
{
	assert(netns_fd >= 0);
	return !bpf_fails;
}

int bpf_note_of(int netns_fd, const char *cgroup)
{
	assert(netns_fd >= 0 && cgroup);
	return bpf_fails ? -EPERM : 0;
}

int bpf_note(int netns_fd)
{
	assert(netns_fd >= 0);
	return bpf_fails ? -EPERM : 0;
}

void bpf_events_watch(void)
{
}

void bpf_let_go(const char *uid)
{
	(void)uid;
}

int bpf_dns(const char *uid, const char *cgroup, bool on)
{
	(void)uid;
	(void)cgroup;
	(void)on;
	return 0;
}

int bpf_listening_noted(const char *cgroup, bool noted)
{
	if (bpf_fails)
		return -EPERM;
	is_noted[atoi(cgroup)] = noted;
	return 0;
}

int bpf_ztunnel_joins(const char *cgroup)
{
	(void)cgroup;
	return 0;
}

void bpf_ztunnel_began(const char *cgroup, __u64 start)
{
	(void)cgroup;
	(void)start;
}

const char *cgroup_of(const union uid *uid)
{
	(void)uid;
	return "none";
}

const char *cgroup_of_ztunnel(pid_t pid)
{
	(void)pid;
	return "none";
}

int cgroup_netns(const union uid *uid, __u64 netns, pid_t pid)
{
	(void)pid;
	return netns_is_hidden[number_of(uid)] ? -ESRCH : dup(netns_files[netns]);
}

int netns_visit(int netns_fd, int (*act)(void *), void *argument)
{
	(void)netns_fd;
	(void)act;
	(void)argument;
	return 0;
}

/* In the place of those of zds_status.c: see Makefile. */

static bool is_plain(const char *text)
{
	for (; *text; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

bool __wrap_status_write(const char *uid, const char *text)
{
	assert(strlen(uid) == UID_STRLEN - 1);
	for (; text && *text; text++) assert(*text >= ' ' && *text <= '~' && *text != '"');
	return !bpf_fails;
}

bool __wrap_status_is_enabled(const char *uid)
{
	(void)uid;
	return false;
}

bool __wrap_told_write(const char *uid, const struct workload *workload)
{
	(void)uid;
	(void)workload;
	return true;
}

bool __wrap_told_read(const char *uid, struct workload *workload)
{
	(void)uid;
	(void)workload;
	return false;
}

/* A ztunnel: what it has been told, and knows by that. */
static struct ztunnel_here {
	int fd;		   /* 0: it has not dialled */
	int number;	   /* of its connection, among those of onramp-zds */
	bool was_asked;	   /* and has not answered */
	bool is_bad;	   /* it has said what it may not, or nothing for too long */
	bool has_snapshot; /* it was told so */
	bool named[PODS];  /* since it dialled */
	int knows[PODS];   /* the netns that it serves; 0: none */
	int pod;	   /* which the request was about; -1: none */
	int netns;	   /* that came with it */
	Zds__Request__WhatCase what;
} ztunnels_here[ZTUNNELS_HERE];

static int netns_of_file(int fd)
{
	struct stat one, other;

	assert(!fstat(fd, &one));
	for (int i = 1; i < NETNS; i++) {
		assert(!fstat(netns_files[i], &other));
		if (one.st_ino == other.st_ino)
			return i;
	}
	abort();
}

static int pod_named(const char *text)
{
	union uid uid;
	const char *end = uid_parse(text, '-', &uid);

	assert(end && !*end);
	return uid.byte[15];
}

/* Whether a pod may be left out of a snapshot, which ends what ztunnel does for it. */
static bool may_be_left_out(const struct pod *pod, const struct ztunnel_here *ztunnel)
{
	return !pod->is_said || pod->leaves || !netns_now[number_of(&pod->uid)] ||
	       pod->nacks[ztunnel->number];
}

/* As ztunnel does it; what makes it end is what it was not to be told. */
static void understand(struct ztunnel_here *ztunnel, const Zds__Request *request, int netns)
{
	ztunnel->what = request->what_case;
	ztunnel->netns = netns;
	ztunnel->pod = -1;
	assert(!netns == (ztunnel->what != ZDS__REQUEST__WHAT_ADD));
	switch (ztunnel->what) {
	case ZDS__REQUEST__WHAT_ADD:
		assert(request->add->identity && *request->add->identity->name);
		ztunnel->pod = pod_named(request->add->uid);
		ztunnel->named[ztunnel->pod] = true;
		break;
	case ZDS__REQUEST__WHAT_KEEP:
		assert(!ztunnel->has_snapshot);
		ztunnel->pod = pod_named(request->keep->uid);
		ztunnel->named[ztunnel->pod] = true;
		break;
	case ZDS__REQUEST__WHAT_DEL:
		ztunnel->pod = pod_named(request->del->uid);
		ztunnel->named[ztunnel->pod] = false;
		ztunnel->knows[ztunnel->pod] = 0;
		break;
	case ZDS__REQUEST__WHAT_SNAPSHOT_SENT:
		assert(!ztunnel->has_snapshot);
		ztunnel->has_snapshot = true;
		for (const struct pod *pod = pods; pod; pod = pod->next)
			assert(ztunnel->named[number_of(&pod->uid)] ||
			       may_be_left_out(pod, ztunnel));
		for (int i = 0; i < PODS; i++)
			if (!ztunnel->named[i])
				ztunnel->knows[i] = 0;
		break;
	default:
		abort();
	}
}

static void hang_up(struct ztunnel_here *ztunnel)
{
	close(ztunnel->fd);
	ztunnel->fd = 0;
}

/* Takes the request that is there, if there is one. */
static void listen_to_zds(struct ztunnel_here *ztunnel)
{
	__u8 data[MAX_PACKET];
	struct iovec part = { data, sizeof(data) };
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr aligned;
	} control;
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header;
	Zds__Request *request;
	int netns = 0, fd;
	ssize_t got = recvmsg(ztunnel->fd, &message, MSG_DONTWAIT);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		hang_up(ztunnel);
		return;
	}
	assert(!(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	assert(!ztunnel->was_asked);
	header = CMSG_FIRSTHDR(&message);
	if (header) {
		assert(header->cmsg_type == SCM_RIGHTS &&
		       header->cmsg_len == CMSG_LEN(sizeof(int)));
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
		netns = netns_of_file(fd);
		close(fd);
	}
	request = zds__request__unpack(NULL, got, data);
	assert(request && !request->base.n_unknown_fields);
	understand(ztunnel, request, netns);
	ztunnel->was_asked = true;
	zds__request__free_unpacked(request, NULL);
}

static bool is_readable(int fd)
{
	struct pollfd readable = { .fd = fd, .events = POLLIN };

	return poll(&readable, 1, 0) > 0;
}

/* All that onramp-zds does in one round of its loop. */
static void go_round(void)
{
	for (struct peer *peer = peers; peer < peers + PEERS; peer++)
		while (peer->fd && is_readable(peer->fd)) on_peer(peer->fd);
	pods_step();
	peers_tick();
	peers_tell();
	for (int i = 0; i < ZTUNNELS_HERE; i++) {
		if (ztunnels_here[i].fd)
			listen_to_zds(&ztunnels_here[i]);
		/* Until it has answered: an answer is heard of in the next round. */
		if (ztunnels_here[i].fd && ztunnels_here[i].was_asked &&
		    ztunnels_here[i].what == ZDS__REQUEST__WHAT_ADD)
			assert(is_noted[i]);
	}
}

static void dial(struct ztunnel_here *ztunnel)
{
	struct peer *peer = peer_free();
	char cgroup[16];
	int pair[2];

	if (ztunnel->fd)
		hang_up(ztunnel);
	go_round(); /* which hears of it */
	assert(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair));
	snprintf(cgroup, sizeof(cgroup), "%d", (int)(ztunnel - ztunnels_here));
	*peer = (struct peer){ .fd = pair[0],
			       .pid = ztunnel - ztunnels_here + 1,
			       .start = ztunnel - ztunnels_here,
			       .deadline = now() + HELLO_WITHIN,
			       .cgroup = strdup(cgroup) };
	heed(peer);
	ztunnel->fd = pair[1];
	ztunnel->number = peer - peers;
	ztunnel->was_asked = false;
	ztunnel->has_snapshot = false;
	memset(ztunnel->named, 0, sizeof(ztunnel->named));
}

static void say_to_zds(struct ztunnel_here *ztunnel, const void *data, size_t size)
{
	if (ztunnel->fd)
		send(ztunnel->fd, data, size, MSG_NOSIGNAL);
}

/* An answer, of which ztunnel is what it says. */
static void answer(struct ztunnel_here *ztunnel, const char *error)
{
	Zds__Response response = ZDS__RESPONSE__INIT;
	Zds__Ack ack = ZDS__ACK__INIT;
	__u8 data[MAX_PACKET];

	if (!ztunnel->fd || !ztunnel->was_asked)
		return;
	if (ztunnel->what == ZDS__REQUEST__WHAT_ADD && !*error)
		ztunnel->knows[ztunnel->pod] = ztunnel->netns;
	ack.error = (char *)error;
	response.what_case = ZDS__RESPONSE__WHAT_ACK;
	response.ack = &ack;
	ztunnel->was_asked = false;
	say_to_zds(ztunnel, data, zds__response__pack(&response, data));
}

/* Whatever may be an answer: if it was one, then of a ztunnel that does what it says. */
static void say_rubbish(struct ztunnel_here *ztunnel, const __u8 *data, size_t size)
{
	Zds__Response *response = response_read(data, size);

	if (response && ztunnel->fd && ztunnel->was_asked) {
		if (ztunnel->what == ZDS__REQUEST__WHAT_ADD && !*response->ack->error)
			ztunnel->knows[ztunnel->pod] = ztunnel->netns;
		ztunnel->was_asked = false;
	}
	if (response)
		zds__response__free_unpacked(response, NULL);
	say_to_zds(ztunnel, data, size);
}

static void file_comes(unsigned int number, const char *name)
{
	union uid uid = uid_number(number);
	struct pod *pod = pod_of(&uid);

	pod->is_said = true;
	pod->leaves = false;
	pod->is_due = true;
	pod->said = (struct workload){ .namespace = "default", .service_account = "account" };
	strcpy(pod->said.name, name);
}

/* As gone_leave() has it. */
static void file_goes(unsigned int number)
{
	for (struct pod *pod = pods; pod; pod = pod->next)
		if (number_of(&pod->uid) == number) {
			pod->leaves = true;
			pod->is_due = true;
		}
}

static void netns_comes(unsigned int number, unsigned int netns)
{
	union uid uid = uid_number(number);

	netns_now[number] = netns;
	if (netns)
		pod_appeared(&uid, 1);
	else
		pod_ended(&uid);
}

/* One step: how many bytes it took. */
static size_t step(const __u8 *data, size_t size)
{
	unsigned int what = data[0] / 16, which = data[0] % 16;
	struct ztunnel_here *ztunnel = &ztunnels_here[which % ZTUNNELS_HERE];
	size_t rest = size - 1, length = which * 3;
	const __u8 hello[] = { 8, 1 };

	switch (what) {
	case 0:
		file_comes(which % PODS, "one");
		return 1;
	case 1:
		file_goes(which % PODS);
		return 1;
	case 2:
	case 3:
		netns_comes(which % PODS, which / PODS % NETNS);
		return 1;
	case 4:
		netns_is_hidden[which % PODS] = which / PODS % 2;
		return 1;
	case 5:
		dial(ztunnel);
		say_to_zds(ztunnel, hello, sizeof(hello));
		return 1;
	case 6:
		dial(ztunnel);
		return 1;
	case 7:
	case 8:
		answer(ztunnel, "");
		return 1;
	case 9:
		answer(ztunnel, which > 8 ? "cannot" : "\x01\"\x80\n=");
		return 1;
	case 10:
		time_now += 10 << which % 12;
		return 1;
	case 11:
		bpf_fails = which % 2;
		return 1;
	case 12:
		file_comes(which % PODS, "another");
		return 1;
	case 13:
		if (ztunnel->fd)
			hang_up(ztunnel);
		return 1;
	case 14:
		pods_recall();
		return 1;
	default:
		if (length > rest)
			length = rest;
		say_rubbish(&ztunnels_here[0], data + 1, length);
		return 1 + length;
	}
}

/*
 * All answer at once, and nothing else happens, for as long as anything is to be said: a
 * request a round at most, and what was refused is tried again after 30 s.
 */
static void become_quiet(void)
{
	bpf_fails = false;
	memset(netns_is_hidden, 0, sizeof(netns_is_hidden));
	for (int round = 0; round < 40; round++) {
		go_round();
		for (int i = 0; i < ZTUNNELS_HERE; i++) answer(&ztunnels_here[i], "");
		time_now += 4000;
	}
}

/* Whether a ztunnel knows of a pod what it is to know. */
static bool is_right(const struct ztunnel_here *ztunnel, unsigned int number)
{
	union uid uid = uid_number(number);
	const struct pod *pod = pods;

	while (pod && memcmp(&pod->uid, &uid, sizeof(uid))) pod = pod->next;
	if (!pod)
		return !ztunnel->knows[number];
	/* Of whom nobody knows any more who it is; or who is not there: it may have been kept. */
	if (!*pod->said.name || (pod->by[ztunnel->number] == KEPT && !netns_now[number]))
		return true;
	return (__u64)ztunnel->knows[number] == netns_now[number];
}

static void judge(const struct ztunnel_here *ztunnel)
{
	if (!ztunnel->fd || !peers[ztunnel->number].has_hello)
		return;
	assert(peers[ztunnel->number].has_snapshot);
	assert(!is_noted[ztunnel - ztunnels_here]);
	for (unsigned int i = 0; i < PODS; i++) assert(is_right(ztunnel, i));
}

static void begin(void)
{
	struct pod *next;

	for (int i = 0; i < PEERS; i++) {
		if (peers[i].fd)
			close(peers[i].fd);
		free(peers[i].cgroup);
		peers[i] = (struct peer){};
	}
	for (int i = 0; i < ZTUNNELS_HERE; i++) {
		if (ztunnels_here[i].fd)
			close(ztunnels_here[i].fd);
		ztunnels_here[i] = (struct ztunnel_here){};
	}
	for (; pods; pods = next) {
		next = pods->next;
		if (pods->netns_fd >= 0)
			close(pods->netns_fd);
		free(pods);
	}
	memset(netns_now, 0, sizeof(netns_now));
	memset(rules, 0, sizeof(rules));
	memset(is_noted, 0, sizeof(is_noted));
	listener = netns_files[1]; /* it is never looked at */
	look_at = ~0ULL;
	time_now += 1000000;
}

static void try_steps(const __u8 *data, size_t size)
{
	begin();
	while (size) {
		size_t took = step(data, size);

		data += took;
		size -= took;
		go_round();
	}
	become_quiet();
	for (int i = 0; i < ZTUNNELS_HERE; i++) judge(&ztunnels_here[i]);
	begin();
}

/* A text that is taken can be told, and read again as it was told. */
static void try_workload(const __u8 *data, size_t size)
{
	static char text[MAX_FILE + 1];
	struct workload workload, again;

	if (size > MAX_FILE || memchr(data, 0, size))
		return;
	memcpy(text, data, size);
	text[size] = '\0';
	if (workload_parse(text, &workload))
		return;
	assert(*workload.namespace && is_plain(workload.namespace));
	assert(*workload.name && is_plain(workload.name));
	assert(*workload.service_account && is_plain(workload.service_account));
	assert(workload.ips >= 0 && workload.ips <= MAX_IPS);
	snprintf(text, sizeof(text), "namespace=%s\nname=%s\nservice_account=%s\n",
		 workload.namespace, workload.name, workload.service_account);
	assert(!workload_parse(text, &again) && workload_is_same_pod(&workload, &again));
}

/* What is a UID is that UID also when it is written. */
static void try_names(const __u8 *data, size_t size)
{
	char name[256], text[UID_STRLEN];
	union uid uid, again;
	const char *end;

	if (size > sizeof(name) - 1)
		return;
	memcpy(name, data, size);
	name[size] = '\0';
	if (uid_of_cgroup(name, &uid)) {
		uid_write(&uid, text);
		end = uid_parse(text, '-', &again);
		assert(end && !*end && !memcmp(&uid, &again, sizeof(uid)));
	}
	end = uid_parse(name, size % 2 ? '-' : '_', &uid);
	assert(!end || end == name + UID_STRLEN - 1);
	end = uid_parse(name, 0, &uid);
	assert(!end || end == name + 32);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	config.verbose = getenv("FUZZ_LOG");
	for (int i = 1; i < NETNS; i++) netns_files[i] = memfd_create("netns", MFD_CLOEXEC);
	return 0;
}

int LLVMFuzzerTestOneInput(const __u8 *data, size_t size)
{
	if (!size)
		return 0;
	switch (data[size - 1] % 4) {
	case 0:
		try_workload(data, size - 1);
		break;
	case 1:
		try_names(data, size - 1);
		break;
	default:
		try_steps(data, size - 1);
	}
	return 0;
}
