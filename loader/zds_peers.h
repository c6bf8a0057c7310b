/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What zds_peers.c, zds_messages.c and zds_socket.c share: the ztunnels that are connected. */
#ifndef ZDS_PEERS_H
#define ZDS_PEERS_H

#include "zds.h"

/* zds_peers.c */

struct peer {
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
};
extern struct peer peers[PEERS];

/* It is connected no more. */
void drop(struct peer *peer, const char *why);

/*
 * Before it may listen somewhere: not until it is told of a pod. False: that cannot be
 * noted now, and so is not to be.
 */
bool heed(struct peer *peer);

/* zds_messages.c */

/* Each sends a request; a peer to which that cannot be sent is dropped. */
void tell_add(struct peer *peer, struct pod *pod);
void tell_del(struct peer *peer, struct pod *pod);
void tell_keep(struct peer *peer, struct pod *pod);
void tell_snapshot(struct peer *peer);

/* For watch(): takes what a peer says, its hello or an answer. */
void on_peer(int fd);

/* zds_socket.c */

/* Sees each second whose the socket is; watches it again when it has rested. */
void socket_tick(void);

#endif
