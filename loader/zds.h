/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * onramp-zds: tells ztunnel of pods. One process, one event loop, no threads.
 *
 *   zds.c          the command line and the loop
 *   zds_files.c    DIR, where it is said of pods
 *   zds_workload.c what such a file says
 *   zds_trust.c    whether only root may have written it
 *   zds_lists.c    the lists in DIR: ztunnels' pods, and those outside
 *   zds_status.c   the files that it keeps itself: how pods are, what was told
 *   zds_bpf.c      what BPF knows of pods, and is told of them
 *   zds_hooks.c    programs on cgroups: ztunnels', for DNS, the kubelet's
 *   zds_cgroups.c  where a pod's processes are
 *   zds_pods.c     the list of pods, and what events and answers say of one
 *   zds_join.c     joins what is said and what BPF knows: how a pod joins, leaves and ends
 *   zds_recall.c   pods of which no file says that they join: from before, and outside
 *   zds_peers.c    ztunnels, and what each of them is told next
 *   zds_messages.c the messages to and from them
 *   zds_socket.c   the socket that they dial, whose it is, and who is let in
 *   zds_http.c     metrics and health
 *
 * What only those of one subject share is in zds_files.h, zds_bpf.h, zds_pods.h and
 * zds_peers.h. Nothing here is state: all is read again by whoever starts next. Times are
 * in milliseconds of CLOCK_MONOTONIC. Functions that return int return 0 or a negative
 * errno, unless they say otherwise.
 */
#ifndef ZDS_H
#define ZDS_H

#include "addr.h"
#include "onramp.h"
#include "uid.h"
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define BEAT 1000	/* milliseconds: how often what nobody tells of is looked at */
#define PEERS 8		/* ztunnels that may be connected at a time */
#define MAX_IPS 16	/* of a pod */
#define MAX_NAME 254	/* of a namespace, pod or service account, with its end */
#define MAX_FILE 4096	/* bytes of a file in DIR */
#define MAX_PACKET 1024 /* bytes of a ZDS message */

/* zds.c */

struct config {
	const char *pin_dir;
	const char *socket;
	const char *dir;	/* of workloads */
	const char *status_dir; /* DIR/../status */
	const char *alive;	/* -l, or NULL */
	bool verbose;
};

extern struct config config;

__u64 now(void);

/* The loop goes round again in so many milliseconds, whatever happens. */
void wake_in(unsigned int milliseconds);

/* Calls act when the descriptor can be read, or has failed; until it is closed by unwatch(). */
void watch(int fd, void (*act)(int fd));
void unwatch(int fd);

/* It is not looked at for a while, or is again. */
void watch_rests(int fd, bool rests);

/* One line on standard error: the event's name, and what the format says. */
void log_event(const char *event, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* setns(), which stands in for CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; /proc/PID/ns. */
#define CAPABILITIES "CAP_SYS_ADMIN, CAP_SYS_PTRACE; before 5.11 CAP_SYS_RESOURCE"

/* One line on standard error; exit status 1. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* zds_workload.c */

/* What is said of a pod. */
struct workload {
	char namespace[MAX_NAME];
	char name[MAX_NAME];
	char service_account[MAX_NAME];
	union addr ip[MAX_IPS];
	int ips;
	bool bypass_inbound;
	bool says_dns;
	bool dns;
};

/* Reads a workload's text, which is changed. NULL, or what is wrong with it. */
const char *workload_parse(char *text, struct workload *workload);

bool workload_is_same_pod(const struct workload *one, const struct workload *other);

/* And captured alike. */
bool workload_is_same(const struct workload *one, const struct workload *other);

/* What is said of its DNS. 0: nothing; 1: it is not captured; 2: it is. */
int dns_of(const struct workload *workload);

/* zds_files.c */

/* Watches DIR, reads it once; ends the process where others than root may write to it. */
void files_open(void);

/* Reads DIR again if something has happened to it. */
void files_tick(void);

/* And again, soon. */
void files_read_again(void);

/* How many workloads DIR had when it was read last. */
unsigned int files_count(void);

/* Whether DIR is the one in which an onramp-zds before this one had seen all pods' files. */
bool files_are_of_same_dir(void);

/* Files are gone that nobody is to leave by: nor is anybody when the next one starts. */
void files_doubt(void);

/*
 * Whether istio-cni is being taken over, or is to take over again: DIR/.take-over is there,
 * which onramp-take-over writes.
 */
bool files_take_over(void);

/* Whether something has happened to DIR/outside since the last call. */
bool files_outside_due(void);

/* zds_lists.c */

/* Directories of DIR: pods that are ztunnels', and that stay out of the mesh. */
#define ZTUNNELS_LIST "ztunnels"
#define OUTSIDE_LIST "outside"

/*
 * Whether DIR/LIST/UID is there, and it is root's alone who may have said so. It is asked of the
 * directory each time, for it may be another's from one moment to the next.
 */
bool is_listed(const char *list, const char *uid);

/* Whether there is a DIR/LIST, and it is root's alone: who is not in it is not to be. */
bool is_list(const char *list);

/* Calls act for each of them. */
void listed_each(const char *list, void (*act)(const union uid *uid));

/* zds_status.c */

/* A pod's status file. NULL: removed. False: it could not be written. */
bool status_write(const char *uid, const char *text);

/* Whether it says so. */
bool status_is_enabled(const char *uid);

/* What ztunnel was told of a pod, by whichever onramp-zds: kept beside the status. */
bool told_write(const char *uid, const struct workload *workload);
bool told_read(const char *uid, struct workload *workload);

/* Calls act for each pod that has a status file. */
void status_each(void (*act)(const union uid *uid));

/* zds_bpf.c */

/* Opens what is loaded; ends the process where that is not in-pod mode's. */
void bpf_open(void);

/* From now on pods' events are ours, and no other server's. */
void bpf_events_watch(void);

/* Ends the process, if something else is loaded by now: it is to be started again. */
void bpf_tick(void);

/* The netns of a pod, as netns_info.netns; 0: it has none. False: it cannot be asked. */
bool bpf_netns_of(const union uid *uid, __u64 *netns);

/* The bits of enum pod_rule that onramp-zds may change. */
__u32 bpf_rule(const union uid *uid);
int bpf_rule_write(const union uid *uid, __u32 bits);

/* Calls act for each pod that has such bits, or a program in PIN_DIR/inbound. */
void bpf_each(void (*act)(const union uid *uid));

bool bpf_is_led(const char *uid, int netns_fd);
int bpf_lead(const char *uid, int netns_fd, bool bypass, bool beside);
bool bpf_is_served(int netns_fd); /* one that is known listens there, at all that matters */

/* What ztunnels listen at in there since before; what that of the cgroup does. */
int bpf_note(int netns_fd);
int bpf_note_of(int netns_fd, const char *cgroup);
void bpf_let_go(const char *uid);

/* The cgroup that onramp is for, by its id; 0: the root. */
__u64 bpf_root_cgroup(void);

/* PIN_DIR/metrics; to be freed. */
char *bpf_metrics(void);

/* zds_hooks.c */

/* Attaches, in a pod's cgroup, what captures its DNS; off: takes it away. */
int bpf_dns(const char *uid, const char *cgroup, bool on);

/*
 * Whether BPF notes at what the ztunnel in a cgroup begins to listen: what arrives can be
 * led to nothing else. It costs each of its connections, out of a pod and into one.
 */
int bpf_listening_noted(const char *cgroup, bool noted);

/* Its pod's cgroup is ztunnel's from now on. */
int bpf_ztunnel_joins(const char *cgroup);

/* Where the kubelet's cgroup went with it, it is known again once there is one. */
void bpf_kubelet_tick(void);

/* When the process of the ztunnel in a cgroup began, in nanoseconds: where BPF has not seen it. */
void bpf_ztunnel_began(const char *cgroup, __u64 start);

/* Whether a cgroup, by its id, is known as ztunnel's: by_list: were it by DIR/ztunnels alone. */
bool bpf_is_ztunnels(__u64 cgroup, bool by_list);

/* zds_cgroups.c */

/* The cgroup that onramp is for, in whichever cgroup2 is mounted here. NULL: not here. */
const char *cgroups_root(void);

/* The path of a pod's cgroup, until the next call; NULL: there is none. */
const char *cgroup_of(const union uid *uid);

/*
 * The path of the ztunnel's cgroup that a process is in or below: that of a pod in
 * DIR/ztunnels, or one that BPF knows by onramp load -t; or by a list that was there, while
 * there is none. NULL: none.
 */
const char *cgroup_of_ztunnel(pid_t pid);

/*
 * A descriptor of a pod's netns of that id, of which pid (0: none) is said to be; -ESRCH: none
 * of its processes is in it; -EMFILE: there are too few left.
 */
int cgroup_netns(const union uid *uid, __u64 netns, pid_t pid);

/* zds_pods.c */

/* What a ztunnel knows of a pod. */
enum told {
	UNTOLD,
	KEPT,	/* by Keep: whatever it knew, it knows still */
	ADDED,	/* Add is under way */
	ACKED,	/* so it serves the pod */
	NACKED, /* to be told again at `retry` */
	TO_GO,	/* to be told Del at `retry` */
};

struct pod {
	struct pod *next;
	union uid uid;
	char text[UID_STRLEN]; /* of the uid */
	struct workload said;  /* by its file */
	struct workload told;  /* to a ztunnel, ever; name is empty: not yet */
	bool is_said;	       /* its file was good, and it has not left */
	bool is_bad;	       /* its file is not good now */
	unsigned int seen;     /* in which reading of this DIR its file was; 0: in none */
	__u64 gone_at;	       /* since when it is not; 0: it is, or never was */
	bool has_status;       /* its status file says what is so */
	bool has_told;	       /* its told file says what was told */
	bool is_missing;       /* after a start: it has no file */
	bool is_there;	       /* BPF knows a netns of it */
	bool was_there;	       /* it has known one, ever */
	bool is_due;	       /* something has happened to it */
	bool is_known;	       /* what was before this onramp-zds has been looked at */
	bool was_late;	       /* it ran already when it was first said */
	bool is_led;	       /* what arrives at it goes to ztunnel */
	bool may_be_served;    /* a ztunnel may listen there that BPF does not know */
	bool is_tellable;      /* ztunnels may be told of it */
	bool is_enabled;
	bool leaves;
	pid_t pid;   /* of a process in its netns, so it was said; 0: none */
	__u64 netns; /* whose descriptor this is; 0: none */
	int netns_fd;
	bool led_bypass;     /* as said, when it was led */
	bool led_beside;     /* as files_take_over() was */
	int has_dns;	     /* what bpf_dns() was told; -1: nothing yet */
	char reason[128];    /* why it is not enabled, as its status file has it */
	enum told by[PEERS]; /* what each ztunnel knows of it */
	int nacks[PEERS];    /* from each, one after another */
	int drops;	     /* of ztunnels that went away at its Add, one after another */
	__u64 held_until;    /* no Add before that, to any */
	__u64 retry[PEERS];  /* not before it is that ztunnel told again, or Del */
};

extern struct pod *pods;

/* The pod of that UID, made if need be; NULL: no memory. */
struct pod *pod_of(const union uid *uid);

/* It ran once, and is no more: it has no cgroup. */
bool pod_has_ended(const struct pod *pod);

/* As its file says, from now on, ztunnels are told of it. */
void told_is_said(struct pod *pod);

/* It has a netns, in which pid is; or has none any more. */
void pod_appeared(const union uid *uid, pid_t pid);
void pod_ended(const union uid *uid);

/* A ztunnel answered to Del, or to Add or Keep: error is NULL, or why it cannot. */
void pod_answered(struct pod *pod, int peer, bool was_del, const char *error);

/* A ztunnel went away, or was silent, at its Add: it is not to hold up the next one. */
void pod_hold(struct pod *pod);

/* A ztunnel is no more. */
void pods_forget_peer(int peer);

struct pod_counts {
	unsigned long late;
};
extern struct pod_counts pod_counts;

/* zds_join.c */

/* Does what can be done for pods to which something has happened; each second, for all. */
void pods_step(void);

/* zds_recall.c */

/*
 * Goes through all of which something is known, by status files and BPF: after a start,
 * or lost events.
 */
void pods_recall(void);

/*
 * OUT for pods that stay out of the mesh, as DIR/outside says, so that a strict onramp
 * knows them; each for as long as it lives, or until it joins.
 */
void outside_step(void);

/* zds_peers.c */

void peers_tick(void);

/* Tells each ztunnel what it is to be told next. */
void peers_tell(void);

/* The one whose process is the newest; -1: none is connected. */
int peer_newest(void);
const char *peer_cgroup(int peer);

bool peers_any(void); /* a ztunnel is connected, and has its snapshot */

struct peer_counts {
	unsigned long acks;
	unsigned long nacks;
	unsigned long connections;
	unsigned long turned_away;
	unsigned long dropped;
};
extern struct peer_counts peer_counts;

/* zds_socket.c */

/* Binds the socket, or stands by. */
void peers_open(void);

/* A pod that may be a ztunnel's has a netns. */
void ztunnel_appeared(const union uid *uid);

bool peers_stand_by(void); /* the socket is another's that answers */
bool peers_serve(void);	   /* it is that, or ours */

/* zds_http.c */

void http_open(const char *where);
void http_tick(void);

#endif
