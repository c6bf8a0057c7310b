/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* hostile: what its attempts share, and what they are. See hostile.c. */
#ifndef ONRAMP_HOSTILE_H
#define ONRAMP_HOSTILE_H

#include "ends.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/wait.h>

#define PATIENCE_MS 500
#define NO_HOPE_MS 150 /* where no answer is expected; the server's count tells */
#define ZTUNNEL_MARK 0x539
#define ZTUNNEL_UID 1337
#define NONE -2	      /* no such thing on this kernel */
#define DEEP 20	      /* onramp looks at 16 levels of cgroups */
#define MANY_PAIRS 17 /* onramp reads 32 devices, these are 34 */

extern union name server, asked; /* asked: what connect() was last called with */
extern bool *ip_refused;	 /* shared by all attempts */

static inline const char *given(const char *name)
{
	const char *value = getenv(name);

	if (!value) {
		fprintf(stderr, "hostile: %s is not set\n", name);
		exit(2);
	}
	return value;
}

static inline union name at(const char *variable, const char *port)
{
	return parse(given(variable), port);
}

static inline int set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value));
}

static inline void be_patient(int fd, int ms)
{
	struct timeval limit = { .tv_usec = ms * 1000 };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* To that destination by that socket, which it returns. */
static inline int dial_for(int ms, int fd, const union name *to)
{
	asked = *to;
	if (fd < 0)
		return -1;
	be_patient(fd, ms);
	if (connect(fd, &to->any, length(to))) {
		if (errno == EINPROGRESS)
			errno = ETIMEDOUT;
		return -1;
	}
	return fd;
}

static inline int dial(int fd, const union name *to)
{
	return dial_for(PATIENCE_MS, fd, to);
}

static inline void await_answer(int fd)
{
	if (fd >= 0)
		poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, PATIENCE_MS);
}

static inline int tcp(int family)
{
	return socket(family, SOCK_STREAM, 0);
}

static inline int dial_new(const union name *to)
{
	return dial(tcp(to->any.sa_family), to);
}

static inline int disconnect(int fd)
{
	return connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
}

static inline int bound(int fd, const union name *from)
{
	return fd < 0 || bind(fd, &from->any, length(from)) ? -1 : fd;
}

/* Into a user namespace of its own, as its root, and others with it; into a cgroup. */
int own_namespaces(int others);
int into_cgroup(const char *path);

/* Runs ip with these commands; no more once it was refused, for that takes long. */
int ip(const char *format, ...);

int accomplice(const char *path);
int advertise(const char *prefix);

/* Attempts. Each returns a socket that should have reached the server, or -1 and errno. */
int plain(void);
int listens_as_ztunnel(void);
int ztunnels_mark(void);
int ztunnels_uid(void);
int ztunnels_inbound_port(void);
int own_userns(void);
int own_userns_mark(void);
int raw_in_own_userns(void);
int own_netns_then_socket(void);
int own_netns_after_socket(void);
int own_netns_and_back(void);
int cgroups_below(void);
int cgroup_renamed(void);
int bpf_maps(void);
int bpf_detach(void);
int socket_of_other_pod(void);
int socket_dialled_by_other_pod(void);
int captured_then_again(void);
int captured_then_unspec(void);
int accepted_then_dials(void);
int listened_then_dials(void);
int becomes_ipv4(void);
int full_of_keys(void);
int full_of_keys_ipv6_only(void);
int fast_open_again(void);
int mptcp_fast_open(void);
int smc(void);
int smc_inet(void);
int io_uring_thread(void);
int ipv6(void);
int mapped(void);
int compatible(void);
int translated(void);
int nat64(void);
int zone(void);
int servers_link_local(void);
int nodes_link_local(void);
int short_name(void);
int other_familys_name(void);
int from_loopback(void);
int from_ztunnels_address(void);
int from_ztunnels_transparently(void);
int by_eth0(void);
int by_lo(void);
int ipv4_source_route(void);
int ipv6_source_route(void);
int repair(void);
int raw_socket(void);
int packet_socket(void);
int takes_ztunnels_address(void);
int takes_foreign_address(void);
int takes_servers_address(void);
int address_on_loopback(void);
int many_addresses(void);
int many_devices(void);
int second_netns_on_link(void);
int own_address_translated(void);

#endif
