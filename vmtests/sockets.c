// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sockets - every way that a program can open a connection.
 *
 *   sockets KIND ADDR PORT   connects that way; prints what `tcp dial` does
 *   sockets all ADDR PORT    each kind in a process of its own; prints the kind,
 *                            its exit status and what it printed, a line each
 *   sockets serve ADDR PORT  the other end for those that are not TCP
 *
 * Exit status 1 and the errno's name where the connection failed; 77 and the
 * errno's name where this kernel has no such socket. OTHER_NETNS is the netns
 * that the kinds which leave theirs go to.
 */
#include "ends.h"
#include "passing.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

#ifndef AF_SMC
#define AF_SMC 43
#endif
#define SMCPROTO_SMC 0
#define SMCPROTO_SMC6 1

static char **arguments;

static int none(void) /* of this kind, on this kernel */
{
	printf("%s\n", strerrorname_np(errno));
	exit(77);
}

static int make(const union name *to, int flags, int protocol)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM | flags, protocol);

	return fd < 0 ? none() : fd;
}

static void set(int fd, int level, int option)
{
	if (setsockopt(fd, level, option, &(int){ 1 }, sizeof(int)))
		none();
}

static int connected(int fd, const union name *to)
{
	return connect_within(fd, to) ? -1 : fd;
}

static int blocking(const union name *to)
{
	return connected(make(to, 0, 0), to);
}

/* What a non-blocking connect() came to, once it is writable. */
static int outcome(int fd)
{
	socklen_t size = sizeof(errno);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &errno, &size);
	fcntl(fd, F_SETFL, 0);
	return errno ? -1 : fd;
}

static int non_blocking_poll(const union name *to)
{
	struct pollfd poller = { .fd = make(to, SOCK_NONBLOCK, 0), .events = POLLOUT };

	if (connect(poller.fd, &to->any, length(to)) && errno != EINPROGRESS)
		return -1;
	poll(&poller, 1, TIMEOUT_MS);
	return outcome(poller.fd);
}

static int non_blocking_epoll(const union name *to)
{
	struct epoll_event event = { .events = EPOLLOUT | EPOLLET };
	int epoll = epoll_create1(0), fd = make(to, SOCK_NONBLOCK, 0);

	if (connect(fd, &to->any, length(to)) && errno != EINPROGRESS)
		return -1;
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	epoll_wait(epoll, &event, 1, TIMEOUT_MS);
	return outcome(fd);
}

/* One socket: refused at home, then the destination. */
static int again_after_refusal(const union name *to)
{
	union name home = parse(to->any.sa_family == AF_INET ? "127.0.0.1" : "::1", "9");
	int fd = make(to, 0, 0);

	return connect_within(fd, &home) && errno == ECONNREFUSED ? connected(fd, to) : -1;
}

static int again_after_unspec(const union name *to)
{
	union name unspec = { .any.sa_family = AF_UNSPEC };
	int fd = make(to, 0, 0);

	if (connect_within(fd, to) || connect(fd, &unspec.any, sizeof(unspec.any)))
		return -1;
	return connected(fd, to);
}

static int bound(const union name *to, int fd)
{
	union name local = { .any.sa_family = to->any.sa_family };

	local.v4.sin_port = htons(22000 + getpid() % 1000);
	return bind(fd, &local.any, length(&local)) ? -1 : connected(fd, to);
}

static int bound_port(const union name *to)
{
	return bound(to, make(to, 0, 0));
}

/* To its own address there, as a program that has one of several does. */
static int bound_address(const union name *to)
{
	int probe = socket(to->any.sa_family, SOCK_DGRAM, 0), fd = make(to, 0, 0);
	union name local = *to;
	socklen_t size = length(to);

	if (connect(probe, &to->any, size) || getsockname(probe, &local.any, &size))
		return -1;
	close(probe);
	local.v4.sin_port = 0;
	return bind(fd, &local.any, size) ? -1 : connected(fd, to);
}

static int by_device(const union name *to)
{
	int fd = make(to, 0, 0);

	return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 4) ? -1 : connected(fd, to);
}

static int reused_port(const union name *to)
{
	int fd = make(to, 0, 0);

	set(fd, SOL_SOCKET, SO_REUSEADDR);
	set(fd, SOL_SOCKET, SO_REUSEPORT);
	return bound(to, fd);
}

static int fast_open_connect(const union name *to)
{
	int fd = make(to, 0, 0);

	set(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT);
	return connected(fd, to);
}

static int fast_open_sendto(const union name *to)
{
	struct pollfd answered = { .fd = make(to, 0, 0), .events = POLLIN };

	if (sendto(answered.fd, "x", 1, MSG_FASTOPEN, &to->any, length(to)) != 1)
		return -1;
	poll(&answered, 1, TIMEOUT_MS); /* for it does not wait for the connection */
	return answered.fd;
}

static int mptcp(const union name *to)
{
	return connected(make(to, 0, IPPROTO_MPTCP), to);
}

/* One entry by hand: a ring is three mappings and two system calls. */
static int io_uring(const union name *to)
{
	struct io_uring_params p = {};
	int ring = syscall(SYS_io_uring_setup, 1, &p), fd = make(to, 0, 0);
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char *sq, *cq;

	if (ring < 0)
		none();
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(int), PROT_READ | PROT_WRITE,
		  MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*cqe), PROT_READ | PROT_WRITE,
		  MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqe = mmap(NULL, sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
		return -1;
	*sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (unsigned long)to, .off = length(to)
	};
	*(int *)(sq + p.sq_off.array) = 0;
	__atomic_store_n((int *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -1;
	cqe = (void *)(cq + p.cq_off.cqes);
	errno = -cqe->res;
	return cqe->res ? -1 : fd;
}

static void *thread_connects(void *to)
{
	return (void *)(long)blocking(to);
}

static int thread(const union name *to)
{
	pthread_t id;
	void *fd;

	pthread_create(&id, NULL, thread_connects, (void *)to);
	pthread_join(id, &fd);
	return (long)fd;
}

/* The child connects, and the parent talks. */
static int fork_child(const union name *to)
{
	int fd = make(to, 0, 0), status;
	pid_t child = fork();

	if (!child)
		_exit(connect_within(fd, to) ? errno : 0);
	waitpid(child, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : fd;
}

static int exec_other(const union name *to)
{
	(void)to;
	arguments[1] = "blocking";
	execv("/proc/self/exe", arguments);
	return -1;
}

static int move_to_other_netns(void)
{
	int netns = open(getenv("OTHER_NETNS") ?: "", O_RDONLY);

	return setns(netns, CLONE_NEWNET);
}

/* The socket stays in the netns that it was made in. */
static int netns_changed_after(const union name *to)
{
	int fd = make(to, 0, 0);

	return move_to_other_netns() ? -1 : connected(fd, to);
}

/* A socket made in this netns, received by a process in another. */
static int passed_to_other_netns(const union name *to)
{
	int pair[2], fd;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	if (!fork())
		_exit(pass(pair[1], make(to, 0, 0)) != 0);
	if (move_to_other_netns())
		return -1;
	fd = receive(pair[0]);
	return fd < 0 ? -1 : connected(fd, to);
}

static int ipv6_only(const union name *to)
{
	int fd = make(to, 0, 0);

	set(fd, IPPROTO_IPV6, IPV6_V6ONLY);
	return connected(fd, to);
}

/* A kernel's TCP socket with RDMA below it where the other end can. */
static int smc(const union name *to)
{
	bool v4 = to->any.sa_family == AF_INET;
	int fd = socket(AF_SMC, SOCK_STREAM, v4 ? SMCPROTO_SMC : SMCPROTO_SMC6);

	return fd < 0 ? none() : connected(fd, to);
}

/* What follows is not TCP, and onramp's to leave alone. */

static int sctp(const union name *to)
{
	return connected(make(to, 0, IPPROTO_SCTP), to);
}

static int datagrams(const union name *to, int protocol)
{
	int fd = socket(to->any.sa_family, SOCK_DGRAM, protocol);

	if (fd < 0)
		none();
	return connect_within(fd, to) || send(fd, "x", 1, 0) != 1 ? -1 : fd;
}

static int udp(const union name *to)
{
	return datagrams(to, 0);
}

static int udp_lite(const union name *to)
{
	return datagrams(to, IPPROTO_UDPLITE);
}

/* The other end is the kernel, and its name where the answer comes from. */
static int echo(const union name *to, int type)
{
	bool v4 = to->any.sa_family == AF_INET;
	int fd = socket(to->any.sa_family, type, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	struct icmphdr request = { .type = v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST };
	unsigned char answer[512], *icmp = answer;
	union name peer = {}, source = {};
	socklen_t size = sizeof(peer);

	if (fd < 0)
		none();
	request.checksum = ~htons(request.type << 8); /* raw IPv4 alone needs it from us */
	if (connect_within(fd, to) || send(fd, &request, sizeof(request), 0) < 0 ||
	    getpeername(fd, &peer.any, &size))
		return -1;
	do {
		size = sizeof(source);
		if (recvfrom(fd, answer, sizeof(answer), 0, &source.any, &size) < 0)
			return -1;
		if (v4 && type == SOCK_RAW)
			icmp = answer + 4 * (*answer & 15); /* behind the IP header */
	} while (*icmp != (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY));
	source.v4.sin_port = to->v4.sin_port; /* there are none */
	printf("dialled=%s local=%s \n", show(&peer), show(&source));
	exit(0);
}

static int ping(const union name *to)
{
	return echo(to, SOCK_DGRAM);
}

static int raw(const union name *to)
{
	return echo(to, SOCK_RAW);
}

static const struct kind {
	const char *name;
	int (*connect)(const union name *to);
} kinds[] = {
	{ "blocking", blocking },
	{ "non-blocking-poll", non_blocking_poll },
	{ "non-blocking-epoll", non_blocking_epoll },
	{ "again-after-refusal", again_after_refusal },
	{ "again-after-unspec", again_after_unspec },
	{ "bound-port", bound_port },
	{ "bound-address", bound_address },
	{ "by-device", by_device },
	{ "reused-port", reused_port },
	{ "fast-open-connect", fast_open_connect },
	{ "fast-open-sendto", fast_open_sendto },
	{ "mptcp", mptcp },
	{ "io-uring", io_uring },
	{ "thread", thread },
	{ "fork", fork_child },
	{ "exec", exec_other },
	{ "netns-changed-after", netns_changed_after },
	{ "passed-to-other-netns", passed_to_other_netns },
	{ "ipv6-only", ipv6_only },
	{ "smc", smc },
	{ "sctp", sctp },
	{ "udp", udp },
	{ "udp-lite", udp_lite },
	{ "ping", ping },
	{ "raw", raw },
};

static int run(const struct kind *kind, const union name *to)
{
	int fd = kind->connect(to);

	return fd < 0 ? failed() : converse(fd);
}

static void run_apart(const struct kind *kind, const union name *to)
{
	char said[1024];
	int out[2], status;
	ssize_t size;
	pid_t child;

	if (pipe(out) || (child = fork()) < 0)
		exit(failed());
	if (!child) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		exit(run(kind, to));
	}
	close(out[1]);
	waitpid(child, &status, 0);
	size = read(out[0], said, sizeof(said)); /* it printed one line */
	close(out[0]);
	said[size > 0 ? size - 1 : 0] = 0;
	printf("%s %d %s\n", kind->name, WIFEXITED(status) ? WEXITSTATUS(status) : 128, said);
	fflush(stdout);
}

static int serve(const union name *name)
{
	static const int protocols[] = { IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_SCTP };
	struct pollfd fds[3];
	char line[128];
	int count = 0;

	for (int i = 0; i < 3; i++) {
		int type = protocols[i] == IPPROTO_SCTP ? SOCK_STREAM : SOCK_DGRAM;
		int fd = socket(name->any.sa_family, type, protocols[i]);

		if (fd < 0)
			continue;
		if (bind(fd, &name->any, length(name)) || (type == SOCK_STREAM && listen(fd, 16)))
			return failed();
		fds[count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	puts("ready");
	fflush(stdout);
	while (poll(fds, count, -1) > 0)
		for (int i = 0; i < count; i++) {
			union name peer;
			socklen_t size = sizeof(peer);
			int fd = fds[i].fd;

			if (!fds[i].revents)
				continue;
			if (recvfrom(fd, line, 1, 0, &peer.any, &size) < 0) /* a listener */
				fd = accept(fd, &peer.any, &size);
			snprintf(line, sizeof(line), "local=%s peer=%s \n", show(name),
				 show(&peer));
			sendto(fd, line, strlen(line), 0, fd == fds[i].fd ? &peer.any : NULL,
			       fd == fds[i].fd ? size : 0);
			if (fd != fds[i].fd)
				close(fd);
		}
	return failed();
}

int main(int argc, char **argv)
{
	const char *wanted = argc == 4 ? argv[1] : "";
	union name to = argc == 4 ? parse(argv[2], argv[3]) : (union name){};

	signal(SIGPIPE, SIG_IGN);
	arguments = argv;
	if (!strcmp(wanted, "serve"))
		return serve(&to);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!strcmp(wanted, "all"))
			run_apart(&kinds[i], &to);
		else if (!strcmp(wanted, kinds[i].name))
			return run(&kinds[i], &to);
	}
	return strcmp(wanted, "all") ? 2 : 0;
}
