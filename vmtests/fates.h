/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tcp and pods share: what becomes of many connections. */
#ifndef FATES_H
#define FATES_H

#include "ends.h"
#include <stdbool.h>
#include <time.h>

/* What became of a connection: by its server's line and its getpeername(). */
enum fate { PROXIED, DIRECT, WRONG, FAILED, FATES };

/* How many had which fate, and the one that all should have; FATES: what else. */
struct tally {
	long fates[FATES];
	enum fate wanted;
};

static const char *const fate_names[] = { "proxied", "direct", "wrong", "failed", "any" };

static inline enum fate fate_named(const char *name)
{
	enum fate fate = 0;

	while (fate < FATES && strcmp(name, fate_names[fate])) fate++;
	return fate;
}

static inline double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Reads the server's line, which is then behind our peer's name, and closes. */
static inline enum fate fate_of(int fd, const union name *to, char *line, size_t room)
{
	bool v4 = to->any.sa_family == AF_INET, same;
	union name peer = {};
	socklen_t size = sizeof(peer);
	char orig[100], local[100], mapped[100];
	size_t head, used;
	ssize_t got;

	same = !getpeername(fd, &peer.any, &size) && !strcmp(show(&peer), show(to));
	head = used = snprintf(line, room, "peer %s: ", show(&peer));
	while (!strchr(line, '\n') && (got = read(fd, line + used, room - 1 - used)) > 0)
		line[used += got] = 0;
	if (used == head)
		snprintf(line + used, room - used, "%s", errno ? strerrorname_np(errno) : "end");
	line[strcspn(line, "\n")] = ' ';
	/* Reset: neither end keeps the port in TIME_WAIT. */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	close(fd);
	snprintf(orig, sizeof(orig), v4 ? " orig4=%s " : " orig6=%s ", show(to));
	snprintf(local, sizeof(local), " local=%s ", show(to));
	snprintf(mapped, sizeof(mapped), " local=[::ffff:%s]:%u ",
		 v4 ? inet_ntoa(to->v4.sin_addr) : "", ntohs(to->v4.sin_port));
	if (same && strstr(line, orig))
		return PROXIED;
	if (same && strstr(line, " on=15053")) /* DNS, which needs no destination */
		return PROXIED;
	if (same && (strstr(line, local) || strstr(line, mapped)))
		return DIRECT;
	return used > head ? WRONG : FAILED;
}

/* Says "BEGAN ENDED FATE DESTINATION: LINE" of what should have had another. */
static inline void judge(struct tally *tally, double began, const union name *to, enum fate fate,
			 const char *line)
{
	bool wanted = tally->wanted == FATES ? fate < WRONG : fate == tally->wanted;

	tally->fates[fate]++;
	if (!wanted)
		fprintf(stderr, "%.6f %.6f %s %s: %s\n", began, now(), fate_names[fate], show(to),
			line);
}

static inline void tell(const char *who, struct tally *tally)
{
	printf("%sproxied=%ld direct=%ld wrong=%ld failed=%ld\n", who, tally->fates[PROXIED],
	       tally->fates[DIRECT], tally->fates[WRONG], tally->fates[FAILED]);
	fflush(stdout);
	memset(tally->fates, 0, sizeof(tally->fates));
}

#endif
