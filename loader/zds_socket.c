// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: the socket that ztunnels dial, whose it is, and who is let in. While another
 * server answers at it, this one stands by.
 */
#include "zds_peers.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define HELLO_WITHIN 5000
#define ACCEPTS 5 /* a second */
#define REST 200  /* of the listener's, where these are too many */

static int listener = -1; /* -1: we stand by */
static struct stat own;	  /* of its socket */
static bool said_standing_by;
static bool said_cannot; /* listen; or at the start, where it is said in another way */
static bool some_cannot_join, said_cannot_join; /* ztunnels, in a round; and that was told */
static __u64 look_at;
static __u64 rests_until;      /* the listener; 0: it does not */
static __u64 accepts[ACCEPTS]; /* when the last ones were */

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
	__u64 tick = 1000000000 / sysconf(_SC_CLK_TCK); /* that start is told in */
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
	bpf_ztunnel_began(peer->cgroup, peer->start * tick);
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
	char new[PATH_MAX];

	if (fd < 0)
		return -errno;
	snprintf(new, sizeof(new), "%s.%d", config.socket, getpid());
	address_of(new, &address);
	unlink(new);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || chmod(new, 0600) ||
	    listen(fd, 16) || stat(new, &own) || rename(new, config.socket)) {
		err = -errno;
		unlink(new);
		close(fd);
		return err;
	}
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

static void listed_joins(const union uid *uid)
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
static void all_listed_join(void)
{
	some_cannot_join = false;
	listed_each(ZTUNNELS_LIST, listed_joins);
	said_cannot_join = some_cannot_join;
}

void ztunnel_appeared(const union uid *uid)
{
	char text[UID_STRLEN];

	uid_write(uid, text);
	if (listener >= 0 && is_listed(ZTUNNELS_LIST, text))
		listed_joins(uid);
}

/* Whether what is at its path is still ours: inodes are numbered by each file system. */
static bool is_own(void)
{
	struct stat status;

	return !stat(config.socket, &status) && status.st_ino == own.st_ino &&
	       status.st_dev == own.st_dev;
}

static void look(void)
{
	look_at = now() + BEAT;
	if (listener >= 0 || (said_standing_by && files_take_over()))
		all_listed_join();
	if (listener >= 0 && is_own())
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

/*
 * -l: the loop goes round, and the socket serves. Else the file is old, or is not there. Who
 * asks over HTTP may find all places taken, by pods that hold many connections.
 */
static bool alive_say(void)
{
	int fd;

	if (!config.alive || !utimensat(AT_FDCWD, config.alive, NULL, 0))
		return true;
	fd = open(config.alive, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

void peers_open(void)
{
	struct sockaddr_un address;
	char pid[16];

	snprintf(pid, sizeof(pid), ".%d", getpid());
	if (strlen(config.socket) + strlen(pid) >= sizeof(address.sun_path))
		die("%s: too long for a socket: give -s", config.socket);
	if (!alive_say())
		die("%s: %s: give -l", config.alive, strerror(errno));
	said_cannot = true;
	look();
	if (!peers_serve())
		die("%s: cannot listen there: give -s", config.socket);
}

void socket_tick(void)
{
	if (now() >= look_at) {
		look();
		if (peers_serve())
			alive_say();
		else if (config.alive)
			unlink(config.alive);
	}
	if (rests_until && now() >= rests_until && listener >= 0) {
		watch_rests(listener, false);
		rests_until = 0;
	}
	if (rests_until)
		wake_in(REST);
}
