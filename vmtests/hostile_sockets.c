// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hostile: one socket used twice, its memory filled, and other calls that connect. */
#include "hostile.h"
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef IPPROTO_SMC
#define IPPROTO_SMC 256
#endif
#ifndef AF_SMC
#define AF_SMC 43
#endif

/* ---- one socket used twice ---- */

int captured_then_unspec(void)
{
	int fd = dial_new(&server);

	for (int i = 0; i < 3 && fd >= 0; i++) fd = disconnect(fd) ? -1 : dial(fd, &server);
	return fd;
}

/* The second connect() must neither succeed nor undo the first. */
int captured_then_again(void)
{
	int fd = dial_new(&server);

	if (fd < 0 || !connect(fd, &server.any, length(&server)) || errno != EISCONN)
		return -1;
	return fd;
}

/* Two ends of a connection of this pod with itself: accepts, and dials as to. */
static int own_pair(int fds[2], const union name *to)
{
	union name own = at("SELF", "7777");
	int listener = tcp(AF_INET);

	if (set(listener, SOL_SOCKET, SO_REUSEADDR, 1) || bound(listener, &own) < 0 ||
	    listen(listener, 1))
		return -1;
	fds[1] = dial_new(to);
	fds[0] = fds[1] < 0 ? -1 : accept(listener, NULL, NULL);
	return fds[0] < 0 ? -1 : 0;
}

int accepted_then_dials(void)
{
	union name own = at("SELF", "7777");
	int fds[2];

	if (own_pair(fds, &own) || disconnect(fds[0]))
		return -1;
	return dial(fds[0], &server);
}

int listened_then_dials(void)
{
	int fd = tcp(AF_INET);

	return listen(fd, 1) || disconnect(fd) ? -1 : dial(fd, &server);
}

/* From AF_INET6 to AF_INET, which a connection to a mapped address may. */
int becomes_ipv4(void)
{
	union name own;
	char mapped[64];
	int fds[2];

	snprintf(mapped, sizeof(mapped), "::ffff:%s", given("SELF"));
	own = parse(mapped, "7777");
	if (own_pair(fds, &own))
		return -1;
	if (set(fds[1], IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET))
		return errno == ENOPROTOOPT ? NONE : -1; /* a kernel that has not got it */
	if (disconnect(fds[1]))
		return -1;
	return dial(fds[1], &server);
}

/* ---- the socket's own memory filled: what onramp keeps with it takes of the same ---- */

static int dial_full(int fd, const union name *to)
{
	struct tcp_md5sig key = { .tcpm_keylen = 1, .tcpm_key = "x" };
	union name peer = parse(to->any.sa_family == AF_INET ? "198.18.0.0" : "2001:db8::", "0");
	uint32_t *last = &peer.v6.sin6_addr.s6_addr32[3], first;
	int keys = 0;

	if (to->any.sa_family == AF_INET)
		last = &peer.v4.sin_addr.s_addr;
	first = ntohl(*last);
	do {
		*last = htonl(first + ++keys);
		memcpy(&key.tcpm_addr, &peer, sizeof(peer));
	} while (!setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)));
	if (keys == 1)
		return errno == ENOPROTOOPT ? NONE : -1;
	return dial(fd, to);
}

int full_of_keys(void)
{
	return dial_full(tcp(AF_INET), &server);
}

int full_of_keys_ipv6_only(void)
{
	union name to = at("SERVER6", "80");
	int fd = tcp(AF_INET6);

	return set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) ? -1 : dial_full(fd, &to);
}

/* ---- other calls that connect ---- */

int fast_open_again(void)
{
	int fd = tcp(AF_INET);

	be_patient(fd, PATIENCE_MS);
	asked = server;
	for (int i = 0; i < 2; i++) {
		if (sendto(fd, "x", 1, MSG_FASTOPEN, &server.any, length(&server)) != 1 ||
		    (i == 0 && disconnect(fd)))
			return -1;
	}
	await_answer(fd);
	return fd;
}

int mptcp_fast_open(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);

	if (fd < 0)
		return NONE;
	be_patient(fd, PATIENCE_MS);
	asked = server;
	if (sendto(fd, "x", 1, MSG_FASTOPEN, &server.any, length(&server)) != 1)
		return errno == EOPNOTSUPP ? NONE : -1;
	await_answer(fd);
	return fd;
}

/* TCP beneath, opened by the kernel, where there is no RDMA. */
int smc(void)
{
	int fd = socket(AF_SMC, SOCK_STREAM, 0);

	if (fd < 0 && (errno == EAFNOSUPPORT || errno == ESOCKTNOSUPPORT))
		return NONE;
	return dial(fd, &server);
}

int smc_inet(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_SMC);

	if (fd < 0 && errno == EPROTONOSUPPORT)
		return NONE;
	return dial(fd, &server);
}

/* The kernel's own thread calls connect(). */
int io_uring_thread(void)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQPOLL };
	int ring = syscall(SYS_io_uring_setup, 1, &p), fd = tcp(AF_INET);
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char *sq, *cq;

	if (ring < 0)
		return errno == ENOSYS || errno == EPERM ? NONE : -1;
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(int), PROT_READ | PROT_WRITE,
		  MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*cqe), PROT_READ | PROT_WRITE,
		  MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqe = mmap(NULL, sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
		return -1;
	asked = server;
	be_patient(fd, PATIENCE_MS);
	*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_CONNECT,
				      .fd = fd,
				      .addr = (unsigned long)&server,
				      .off = length(&server) };
	*(int *)(sq + p.sq_off.array) = 0;
	__atomic_store_n((int *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP,
		    NULL, 0) < 0)
		return -1;
	cqe = (void *)(cq + p.cq_off.cqes);
	errno = -cqe->res;
	return cqe->res ? -1 : fd;
}
