// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * hostile - what a program in an enrolled pod may try to get a TCP connection
 * out around the proxy. Beside sockets.c, which has the honest ways.
 *
 *   hostile make SET [NAME]...
 *                             makes these attempts, or all, one after another, each
 *                             in a process of its own; prints "NAME SET outcome"
 *   hostile accomplice PATH   in another pod: gives sockets away and dials with
 *                             those it is given, over a Unix socket at PATH
 *   hostile storm IP          programs and half-made connections to IP, for ever
 *   hostile squat CGROUP IP IP6
 *                             holds these in a netns and a cgroup of its own
 *   hostile advertise PREFIX  tells all on the link that it is their router
 *
 * Environment: SELF SELF6 SERVER SERVER6 ZTUNNEL ZTUNNEL6 NODE are addresses,
 * NODE_LOCAL and SERVER_LOCAL link-local ones with %eth0, SERVER_MAC; CGROUP is
 * a cgroup directory that it may write to, ATTACHED the one that onramp is
 * attached to, ACCOMPLICE the path of the accomplice.
 *
 * Outcomes: captured (ztunnel has it and knows where it wanted to go), failed
 * ERRNO, ESCAPED (the server sees this pod), passed-as-other (the server sees
 * another pod), - (this kernel has no such thing), or ? and the line read.
 */
#include "ends.h"
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/seg6.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef IPPROTO_SMC
#define IPPROTO_SMC 256
#endif
#ifndef AF_SMC
#define AF_SMC 43
#endif

#define PATIENCE_MS 500
#define NO_HOPE_MS 150 /* where no answer is expected; the server's count tells */
#define ZTUNNEL_MARK 0x539
#define ZTUNNEL_UID 1337
#define NONE -2	      /* no such thing on this kernel */
#define DEEP 20	      /* onramp looks at 16 levels of cgroups */
#define MANY_PAIRS 17 /* onramp reads 32 devices, these are 34 */

static union name server, asked; /* asked: what connect() was last called with */
static bool *ip_refused;	 /* shared by all attempts */

static const char *given(const char *name)
{
	const char *value = getenv(name);

	if (!value) {
		fprintf(stderr, "hostile: %s is not set\n", name);
		exit(2);
	}
	return value;
}

static union name at(const char *variable, const char *port)
{
	return parse(given(variable), port);
}

static int set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value));
}

static void be_patient(int fd, int ms)
{
	struct timeval limit = { .tv_usec = ms * 1000 };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* To that destination by that socket, which it returns. */
static int dial_for(int ms, int fd, const union name *to)
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

static int dial(int fd, const union name *to)
{
	return dial_for(PATIENCE_MS, fd, to);
}

static void await_answer(int fd)
{
	if (fd >= 0)
		poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, PATIENCE_MS);
}

static int tcp(int family)
{
	return socket(family, SOCK_STREAM, 0);
}

static int dial_new(const union name *to)
{
	return dial(tcp(to->any.sa_family), to);
}

static int disconnect(int fd)
{
	return connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
}

static int bound(int fd, const union name *from)
{
	return fd < 0 || bind(fd, &from->any, length(from)) ? -1 : fd;
}

/* ---- who it is ---- */

static int plain(void)
{
	return dial_new(&server);
}

static int listens_as_ztunnel(void)
{
	const char *ports[] = { "15001", "15006", "15053" };

	for (int i = 0; i < 3; i++) {
		union name own = parse("::", ports[i]);
		int fd = bound(tcp(AF_INET6), &own);

		if (fd < 0 || listen(fd, 1))
			return -1;
	}
	return dial_new(&server);
}

static int ztunnels_mark(void)
{
	int fd = tcp(AF_INET);

	return set(fd, SOL_SOCKET, SO_MARK, ZTUNNEL_MARK) ? -1 : dial(fd, &server);
}

static int ztunnels_uid(void)
{
	if (setgid(ZTUNNEL_UID) || setuid(ZTUNNEL_UID))
		return -1;
	return dial_new(&server);
}

static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), err;

	err = fd < 0 || write(fd, text, strlen(text)) < 0;
	if (fd >= 0)
		close(fd);
	return err ? -1 : 0;
}

/* Into a user namespace of its own, as its root, and others with it. */
static int own_namespaces(int others)
{
	char map[32];
	int uid = getuid(), gid = getgid();

	if (unshare(CLONE_NEWUSER | others))
		return -1;
	snprintf(map, sizeof(map), "0 %d 1", uid);
	if (write_to("/proc/self/uid_map", map) || write_to("/proc/self/setgroups", "deny"))
		return -1;
	snprintf(map, sizeof(map), "0 %d 1", gid);
	return write_to("/proc/self/gid_map", map);
}

static int own_userns(void)
{
	return own_namespaces(0) ? -1 : dial_new(&server);
}

static int own_userns_mark(void)
{
	return own_namespaces(0) ? -1 : ztunnels_mark();
}

static int own_netns_then_socket(void)
{
	return own_namespaces(CLONE_NEWNET) ? -1 : dial_new(&server);
}

static int own_netns_after_socket(void)
{
	int fd = tcp(AF_INET);

	return own_namespaces(CLONE_NEWNET) ? -1 : dial(fd, &server);
}

static int own_netns_and_back(void)
{
	int pods = open("/proc/self/ns/net", O_RDONLY);

	if (own_namespaces(CLONE_NEWNET) || setns(pods, CLONE_NEWNET))
		return -1;
	return dial_new(&server);
}

/* ---- cgroups ---- */

static int into_cgroup(const char *path)
{
	char procs[2000];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", path);
	return write_to(procs, "0");
}

/* Makes cgroups below its own, one in another, named as ztunnel's; enters the last. */
static int cgroups_below(void)
{
	char path[1000];
	int fd, used = snprintf(path, sizeof(path), "%s", given("CGROUP"));

	for (int level = 0; level < DEEP; level++) {
		used += snprintf(path + used, sizeof(path) - used, "/ztunnel");
		if (mkdir(path, 0755) && errno != EEXIST)
			return -1;
	}
	fd = into_cgroup(path) ? -1 : dial_new(&server);
	return fd;
}

static int cgroup_renamed(void)
{
	char from[500], to[500];

	snprintf(from, sizeof(from), "%s/a", given("CGROUP"));
	snprintf(to, sizeof(to), "%s/b", given("CGROUP"));
	if ((mkdir(from, 0755) && errno != EEXIST) || into_cgroup(from) || rename(from, to))
		return -1;
	return dial_new(&server);
}

/* ---- sockets passed between pods ---- */

static int pass(int through, int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec byte = { &(char){ fd < 0 ? 'n' : 'y' }, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1 };

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	return sendmsg(through, &message, 0) == 1 ? 0 : -1;
}

static int receive(int through)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec byte = { &(char){ 0 }, 1 };
	struct msghdr message = { .msg_iov = &byte,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(through, &message, 0) == 1 && message.msg_controllen)
		memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

static struct sockaddr_un unix_name(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	strncpy(name.sun_path, path, sizeof(name.sun_path) - 1);
	return name;
}

/* Given a socket dials with it; given none makes one to give. */
static int accomplice(const char *path)
{
	struct sockaddr_un name = unix_name(path);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), peer, fd;

	if (bind(listener, (struct sockaddr *)&name, sizeof(name)) || listen(listener, 8))
		return failed();
	puts("ready");
	fflush(stdout);
	while ((peer = accept(listener, NULL, NULL)) >= 0) {
		fd = receive(peer);
		fd = fd < 0 ? tcp(AF_INET) : dial(fd, &server);
		pass(peer, fd);
		close(fd), close(peer);
	}
	return 1;
}

static int ask_accomplice(int fd)
{
	struct sockaddr_un name = unix_name(given("ACCOMPLICE"));
	int peer = socket(AF_UNIX, SOCK_STREAM, 0);

	if (connect(peer, (struct sockaddr *)&name, sizeof(name)) || pass(peer, fd))
		return -1;
	asked = server;
	return receive(peer);
}

static int socket_of_other_pod(void)
{
	return dial(ask_accomplice(-1), &server);
}

static int socket_dialled_by_other_pod(void)
{
	return ask_accomplice(tcp(AF_INET));
}

/* ---- one socket used twice ---- */

static int captured_then_unspec(void)
{
	int fd = dial_new(&server);

	for (int i = 0; i < 3 && fd >= 0; i++) fd = disconnect(fd) ? -1 : dial(fd, &server);
	return fd;
}

/* The second connect() must neither succeed nor undo the first. */
static int captured_then_again(void)
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

static int accepted_then_dials(void)
{
	union name own = at("SELF", "7777");
	int fds[2];

	if (own_pair(fds, &own) || disconnect(fds[0]))
		return -1;
	return dial(fds[0], &server);
}

static int listened_then_dials(void)
{
	int fd = tcp(AF_INET);

	return listen(fd, 1) || disconnect(fd) ? -1 : dial(fd, &server);
}

/* From AF_INET6 to AF_INET, which a connection to a mapped address may. */
static int becomes_ipv4(void)
{
	union name own;
	char mapped[64];
	int fds[2];

	snprintf(mapped, sizeof(mapped), "::ffff:%s", given("SELF"));
	own = parse(mapped, "7777");
	if (own_pair(fds, &own) || set(fds[1], IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET) ||
	    disconnect(fds[1]))
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

static int full_of_keys(void)
{
	return dial_full(tcp(AF_INET), &server);
}

static int full_of_keys_ipv6_only(void)
{
	union name to = at("SERVER6", "80");
	int fd = tcp(AF_INET6);

	return set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) ? -1 : dial_full(fd, &to);
}

/* ---- other calls that connect ---- */

static int fast_open_again(void)
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

static int mptcp_fast_open(void)
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
static int smc(void)
{
	int fd = socket(AF_SMC, SOCK_STREAM, 0);

	if (fd < 0 && (errno == EAFNOSUPPORT || errno == ESOCKTNOSUPPORT))
		return NONE;
	return dial(fd, &server);
}

static int smc_inet(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_SMC);

	if (fd < 0 && errno == EPROTONOSUPPORT)
		return NONE;
	return dial(fd, &server);
}

/* The kernel's own thread calls connect(). */
static int io_uring_thread(void)
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

/* ---- names for the server ---- */

static int dial_embedded(const char *prefix)
{
	char text[80];
	union name to;

	snprintf(text, sizeof(text), "%s%s", prefix, given("SERVER"));
	to = parse(text, "80");
	return dial_new(&to);
}

static int mapped(void)
{
	return dial_embedded("::ffff:");
}

static int compatible(void)
{
	return dial_embedded("::");
}

static int translated(void)
{
	return dial_embedded("::ffff:0:");
}

static int nat64(void)
{
	return dial_embedded("64:ff9b::");
}

static int ipv6(void)
{
	union name to = at("SERVER6", "80");

	return dial_new(&to);
}

static int zone(void)
{
	union name to = at("SERVER6", "80");

	to.v6.sin6_scope_id = if_nametoindex("eth0");
	return dial_new(&to);
}

static int servers_link_local(void)
{
	union name to = at("SERVER_LOCAL", "80");

	return dial_new(&to);
}

static int nodes_link_local(void)
{
	union name to = at("NODE_LOCAL", "80");

	return dial_new(&to);
}

/* Without the field for the zone, which the kernel accepts. */
static int short_name(void)
{
	union name to = asked = at("SERVER6", "80");
	int fd = tcp(AF_INET6);

	be_patient(fd, PATIENCE_MS);
	return connect(fd, &to.any, offsetof(struct sockaddr_in6, sin6_scope_id)) ? -1 : fd;
}

static int other_familys_name(void)
{
	return dial(tcp(AF_INET6), &server);
}

static int ztunnels_inbound_port(void)
{
	union name to = at("ZTUNNEL", "15006");

	return dial_new(&to);
}

/* ---- where it comes from, and by which way ---- */

static int from(const char *address, int option)
{
	union name source = parse(address, "0");
	int fd = tcp(AF_INET);

	if (option && set(fd, IPPROTO_IP, option, 1))
		return -1;
	return dial_for(NO_HOPE_MS, bound(fd, &source), &server);
}

static int from_loopback(void)
{
	return from("127.0.0.1", 0);
}

static int from_ztunnels_address(void)
{
	return from(given("ZTUNNEL"), IP_FREEBIND);
}

static int from_ztunnels_transparently(void)
{
	return from(given("ZTUNNEL"), IP_TRANSPARENT);
}

static int by_device(const char *device, int ms)
{
	int fd = tcp(AF_INET);

	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device)))
		return -1;
	return dial_for(ms, fd, &server);
}

static int by_eth0(void)
{
	return by_device("eth0", PATIENCE_MS);
}

static int by_lo(void)
{
	return by_device("lo", NO_HOPE_MS);
}

/* Loose source route: the packets go to the server first. */
static int ipv4_source_route(void)
{
	unsigned char option[8] = { IPOPT_NOP, IPOPT_LSRR, 7, 4 };
	int fd = tcp(AF_INET);

	memcpy(option + 4, &server.v4.sin_addr, 4);
	if (setsockopt(fd, IPPROTO_IP, IP_OPTIONS, option, sizeof(option)))
		return -1;
	return dial_for(NO_HOPE_MS, fd, &server);
}

/* Segment routing header that has arrived: the same for IPv6. */
static int ipv6_source_route(void)
{
	union name to = at("SERVER6", "80");
	struct {
		struct ipv6_sr_hdr header;
		struct in6_addr segment;
	} route = { .header = { .hdrlen = 2, .type = 4 }, .segment = to.v6.sin6_addr };
	int fd = tcp(AF_INET6);

	if (setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, &route, sizeof(route)))
		return -1;
	return dial_for(NO_HOPE_MS, fd, &to);
}

/* In repair mode connect() sends nothing: the socket is at once established. */
static int repair(void)
{
	int fd = tcp(AF_INET);

	if (set(fd, IPPROTO_TCP, TCP_REPAIR, 1) || dial(fd, &server) < 0 ||
	    set(fd, IPPROTO_TCP, TCP_REPAIR, 0))
		return -1;
	if (write(fd, "x", 1) != 1)
		return -1;
	return fd;
}

/* ---- packets of its own ---- */

static uint32_t sum_of(const void *data, size_t size)
{
	const uint16_t *word = data;
	uint32_t sum = 0;

	for (; size > 1; size -= 2) sum += *word++;
	return size ? sum + *(const uint8_t *)word : sum;
}

static uint16_t checksum(uint32_t sum)
{
	while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

struct segment {
	struct iphdr ip;
	struct tcphdr tcp;
};

static struct segment segment(uint16_t port, uint32_t seq, uint32_t ack, bool reset)
{
	union name own = at("SELF", "0");
	struct segment s = {
		.ip = { .version = 4,
			.ihl = 5,
			.tot_len = htons(sizeof(s)),
			.ttl = 64,
			.protocol = IPPROTO_TCP,
			.saddr = own.v4.sin_addr.s_addr,
			.daddr = server.v4.sin_addr.s_addr },
		.tcp = { .source = htons(port),
			 .dest = server.v4.sin_port,
			 .seq = htonl(seq),
			 .ack_seq = htonl(ack),
			 .doff = 5,
			 .ack = ack != 0,
			 .syn = ack == 0,
			 .rst = reset,
			 .window = htons(60000) },
	};

	s.tcp.check = checksum(sum_of(&s.ip.saddr, 8) + htons(IPPROTO_TCP) + htons(sizeof(s.tcp)) +
			       sum_of(&s.tcp, sizeof(s.tcp)));
	s.ip.check = checksum(sum_of(&s.ip, sizeof(s.ip)));
	return s;
}

/*
 * A connection by hand. The kernel would reset what it does not know: a listener
 * on the port that wants packets from the link alone keeps it silent. Returns a
 * socket from which the server's first data can be read.
 */
static int by_hand(int out, const void *to, socklen_t size, int in)
{
	union name own = at("SELF", "0");
	socklen_t own_size = sizeof(own);
	int silent = bound(tcp(AF_INET), &own), pair[2];
	struct segment s;
	char packet[2048];
	ssize_t got;
	uint16_t port;

	asked = server;
	if (silent < 0 || listen(silent, 1) || getsockname(silent, &own.any, &own_size) ||
	    set(silent, IPPROTO_IP, IP_MINTTL, 255) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	port = ntohs(own.v4.sin_port);
	be_patient(in, PATIENCE_MS);
	s = segment(port, 1000, 0, false);
	if (sendto(out, &s, sizeof(s), 0, to, size) != sizeof(s))
		return -1;
	while ((got = recv(in, packet, sizeof(packet), 0)) > 0) {
		const struct iphdr *ip = (void *)packet;
		const struct tcphdr *th = (void *)(packet + ip->ihl * 4);
		int data = ip->ihl * 4 + th->doff * 4, end = ntohs(ip->tot_len);

		if (ip->protocol != IPPROTO_TCP || th->dest != htons(port) || th->rst)
			continue;
		/* Reset once it has what it came for. */
		s = segment(port, 1001, ntohl(th->seq) + (th->syn ? 1 : end - data), end > data);
		sendto(out, &s, sizeof(s), 0, to, size);
		if (end > data && end <= got)
			return write(pair[1], packet + data, end - data) > 0 ? pair[0] : -1;
	}
	return -1;
}

static int raw_socket(void)
{
	int out = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), in;
	union name to = server;

	if (out < 0)
		return -1;
	in = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
	to.v4.sin_port = 0;
	return by_hand(out, &to, sizeof(to.v4), in);
}

static int packet_socket(void)
{
	struct sockaddr_ll link = { .sll_family = AF_PACKET,
				    .sll_protocol = htons(ETH_P_IP),
				    .sll_ifindex = if_nametoindex("eth0"),
				    .sll_halen = ETH_ALEN };
	int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));

	memcpy(link.sll_addr, ether_aton(given("SERVER_MAC")), ETH_ALEN);
	return fd < 0 ? -1 : by_hand(fd, &link, sizeof(link), fd);
}

static int raw_in_own_userns(void)
{
	return own_namespaces(0) ? -1 : raw_socket();
}

/*
 * A router advertisement to all on the link, this pod with them: the kernel
 * loops it back, and takes one from an address that is not its own.
 */
static int advertise(const char *prefix)
{
	struct {
		struct ip6_hdr ip;
		struct {
			uint8_t type, code;
			uint16_t sum;
			uint8_t hops, flags;
			uint16_t lifetime;
			uint32_t reachable, retrans;
			uint8_t opt, opt_len, length, opt_flags;
			uint32_t valid, preferred, reserved;
			struct in6_addr prefix;
		} ra;
	} packet = {
		.ip = { .ip6_flow = htonl(6 << 28),
			.ip6_plen = htons(sizeof(packet.ra)),
			.ip6_nxt = IPPROTO_ICMPV6,
			.ip6_hlim = 255 },
		.ra = { .type = 134,
			.opt = 3,
			.opt_len = 4,
			.length = 64,
			.opt_flags = 0xc0,
			.valid = htonl(7200),
			.preferred = htonl(7200) },
	};
	struct sockaddr_in6 all = { .sin6_family = AF_INET6,
				    .sin6_scope_id = if_nametoindex("eth0") };
	int fd = socket(AF_INET6, SOCK_RAW, IPPROTO_RAW);

	if (fd < 0 || set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, all.sin6_scope_id))
		return -1;
	inet_pton(AF_INET6, "fe80::bad", &packet.ip.ip6_src);
	inet_pton(AF_INET6, "ff02::1", &all.sin6_addr);
	packet.ip.ip6_dst = all.sin6_addr;
	inet_pton(AF_INET6, prefix, &packet.ra.prefix);
	packet.ra.sum = checksum(sum_of(&packet.ip.ip6_src, 32) + htons(sizeof(packet.ra)) +
				 htons(IPPROTO_ICMPV6) + sum_of(&packet.ra, sizeof(packet.ra)));
	return sendto(fd, &packet, sizeof(packet), 0, (void *)&all, sizeof(all)) < 0 ? -1 : 0;
}

/* ---- BPF ---- */

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int bpf_maps(void)
{
	union bpf_attr attr = {};

	if (bpf(BPF_MAP_GET_NEXT_ID, &attr))
		return -1;
	attr.map_id = attr.next_id;
	return bpf(BPF_MAP_GET_FD_BY_ID, &attr) < 0 ? -1 : dial_new(&server);
}

/* Some kernels ask for no capability here, only for the directory. */
static int bpf_detach(void)
{
	union bpf_attr attr = { .attach_type = BPF_CGROUP_INET4_CONNECT };

	attr.target_fd = open(given("ATTACHED"), O_RDONLY);
	return bpf(BPF_PROG_DETACH, &attr) ? -1 : dial_new(&server);
}

/* ---- its own netns changed ---- */

/* Runs a program with that input. errno: as it was, or EPERM where it says so. */
static int run(char *const argv[], int input)
{
	int out = memfd_create("out", 0), err = errno, status;
	char said[500] = "";
	pid_t child = fork();

	if (!child) {
		if (input >= 0)
			dup2(input, 0);
		dup2(out, 1), dup2(out, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	waitpid(child, &status, 0);
	if (pread(out, said, sizeof(said) - 1, 0) < 0)
		said[0] = 0;
	close(out);
	errno = status ? EPERM : err;
	if (!status)
		return 0;
	if (!strstr(said, "not permitted") && !strstr(said, "Permission denied")) {
		fprintf(stderr, "hostile: %s: %s\n", argv[0], said);
		errno = EPROTO;
	}
	return -1;
}

/* Runs ip with these commands; no more once it was refused, for that takes long. */
static int ip(const char *format, ...)
{
	int text = memfd_create("ip", 0), err;
	va_list args;

	if (*ip_refused) {
		errno = EPERM;
		return -1;
	}

	va_start(args, format);
	vdprintf(text, format, args);
	va_end(args);
	lseek(text, 0, SEEK_SET);
	err = run((char *[]){ "ip", "-batch", "-", NULL }, text);
	*ip_refused = err && errno == EPERM;
	close(text);
	return err;
}

static void restore(void)
{
	ip("addr flush dev eth0 scope global\naddr flush dev lo scope global\n"
	   "addr add %s/16 dev eth0\naddr add %s/64 dev eth0 nodad\n"
	   "route replace default via %s\n",
	   given("SELF"), given("SELF6"), given("NODE"));
}

/* By that way, from its own address, and everything as it was. */
static int dial_and_restore(void)
{
	union name own = at("SELF", "0");
	int fd = dial(bound(tcp(AF_INET), &own), &server);

	await_answer(fd);
	restore();
	return fd;
}

static int takes_address(const char *address)
{
	if (ip("addr flush dev eth0 scope global\naddr add %s/32 dev eth0\n"
	       "addr add %s/16 dev eth0\n",
	       address, given("SELF")))
		return -1;
	return dial_and_restore();
}

static int takes_ztunnels_address(void)
{
	return takes_address(given("ZTUNNEL"));
}

static int takes_foreign_address(void)
{
	return takes_address("10.77.3.77"); /* that no rule enrols */
}

static int address_on_loopback(void)
{
	if (ip("addr flush dev eth0 scope global\naddr add %s/32 dev lo\n"
	       "route add 10.77.0.0/16 dev eth0 src %s\n",
	       given("SELF"), given("SELF")))
		return -1;
	return dial_and_restore();
}

/* An address of its own netns by its devices, not by its routes. */
static int takes_servers_address(void)
{
	int fd;

	/* With a rule of its own the kernel asks the routes for martians too. */
	if (ip("addr add %s/32 dev lo\nroute del local %s dev lo table local\n"
	       "rule add pref 7777 lookup main\n",
	       given("SERVER"), given("SERVER")))
		return -1;
	fd = dial_and_restore();
	ip("rule del pref 7777\n");
	return fd;
}

static int many_addresses(void)
{
	char *text = NULL;
	size_t size;
	FILE *batch = open_memstream(&text, &size);

	for (int i = 0; i < (getenv("ONRAMP_TEST_VM") ? 20 : 300); i++)
		fprintf(batch, "addr add 10.99.%d.%d/32 dev eth0\n", i / 200, 1 + i % 200);
	fclose(batch);
	return ip("%s", text) ? -1 : dial_and_restore();
}

static int many_devices(void)
{
	char *text = NULL;
	size_t size;
	FILE *batch = open_memstream(&text, &size);
	int fd;

	for (int i = 0; i < MANY_PAIRS; i++)
		fprintf(batch, "link add a%d group 77 type veth peer name b%d\n", i, i);
	fclose(batch);
	if (ip("%s", text))
		return -1;
	fd = dial_and_restore();
	ip("link del group 77\n");
	return fd;
}

/* A netns of its own on the pod's link, with an address that no rule enrols. */
static int second_netns_on_link(void)
{
	int ready[2], go[2], fds[2], fd;
	char byte;
	pid_t child;

	if (pipe(ready) || pipe(go) || socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return -1;
	child = fork();
	if (!child) {
		if (own_namespaces(CLONE_NEWNET) || write(ready[1], "", 1) != 1 ||
		    read(go[0], &byte, 1) != 1)
			_exit(1);
		if (!ip("addr add 10.77.3.77/16 dev out\nlink set out up\n"))
			pass(fds[1], dial_new(&server));
		else
			pass(fds[1], -1);
		_exit(0);
	}
	close(ready[1]); /* or its end would not be seen */
	if (read(ready[0], &byte, 1) != 1) {
		waitpid(child, NULL, 0);
		errno = EPERM; /* no user namespace */
		return -1;
	}
	if (ip("link add bridge type bridge\nlink set bridge up\n"
	       "link add in type veth peer name out netns %d\n"
	       "link set in master bridge up\nlink set eth0 master bridge\n",
	       child)) {
		int err = errno;

		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		errno = err;
		return -1;
	}
	if (write(go[1], "", 1) != 1)
		return -1;
	asked = server;
	fd = receive(fds[0]);
	await_answer(fd);
	ip("link set eth0 nomaster\nlink del in\nlink del bridge\n");
	return fd;
}

/* Its own address, which passes, made the server's on the way out. */
static int own_address_translated(void)
{
	char own[64], to[64];
	union name name = at("SELF", "7777");
	char *rule[] = { "iptables", "-w",	"-t",	"nat", "-A",   "OUTPUT", "-p", "tcp", "-d",
			 own,	     "--dport", "7777", "-j",  "DNAT", "--to",	 to,   NULL };
	int fd;

	snprintf(own, sizeof(own), "%s", given("SELF"));
	snprintf(to, sizeof(to), "%s:80", given("SERVER"));
	if (run(rule, -1))
		return -1;
	fd = dial_new(&name);
	await_answer(fd);
	rule[4] = "-D";
	run(rule, -1);
	return fd;
}

static const struct attempt {
	const char *name;
	int (*make)(void);
} attempts[] = {
	{ "plain-connect", plain },
	{ "listens-as-ztunnel", listens_as_ztunnel },
	{ "ztunnels-mark", ztunnels_mark },
	{ "ztunnels-uid-gid", ztunnels_uid },
	{ "ztunnels-inbound-port", ztunnels_inbound_port },
	{ "own-userns", own_userns },
	{ "own-userns-mark", own_userns_mark },
	{ "own-userns-raw-socket", raw_in_own_userns },
	{ "own-netns-then-socket", own_netns_then_socket },
	{ "own-netns-after-socket", own_netns_after_socket },
	{ "own-netns-and-back", own_netns_and_back },
	{ "cgroups-below-20-deep", cgroups_below },
	{ "cgroup-renamed", cgroup_renamed },
	{ "bpf-maps-by-id", bpf_maps },
	{ "bpf-detach", bpf_detach },
	{ "socket-of-other-pod", socket_of_other_pod },
	{ "socket-dialled-by-other-pod", socket_dialled_by_other_pod },
	{ "captured-then-again", captured_then_again },
	{ "captured-then-unspec", captured_then_unspec },
	{ "accepted-then-dials", accepted_then_dials },
	{ "listened-then-dials", listened_then_dials },
	{ "becomes-ipv4", becomes_ipv4 },
	{ "full-of-keys", full_of_keys },
	{ "full-of-keys-ipv6-only", full_of_keys_ipv6_only },
	{ "fast-open-again", fast_open_again },
	{ "mptcp-fast-open", mptcp_fast_open },
	{ "smc", smc },
	{ "smc-inet", smc_inet },
	{ "io-uring-thread", io_uring_thread },
	{ "ipv6", ipv6 },
	{ "ipv4-mapped", mapped },
	{ "ipv4-compatible", compatible },
	{ "ipv4-translated", translated },
	{ "nat64-prefix", nat64 },
	{ "zone", zone },
	{ "servers-link-local", servers_link_local },
	{ "nodes-link-local", nodes_link_local },
	{ "short-name", short_name },
	{ "other-familys-name", other_familys_name },
	{ "from-loopback", from_loopback },
	{ "from-ztunnels-freebind", from_ztunnels_address },
	{ "from-ztunnels-transparent", from_ztunnels_transparently },
	{ "by-eth0", by_eth0 },
	{ "by-lo", by_lo },
	{ "ipv4-source-route", ipv4_source_route },
	{ "ipv6-source-route", ipv6_source_route },
	{ "tcp-repair", repair },
	{ "raw-socket", raw_socket },
	{ "packet-socket", packet_socket },
	{ "takes-ztunnels-address", takes_ztunnels_address },
	{ "takes-foreign-address", takes_foreign_address },
	{ "takes-servers-address", takes_servers_address },
	{ "address-on-loopback", address_on_loopback },
	{ "many-addresses", many_addresses },
	{ "many-devices", many_devices },
	{ "second-netns-on-link", second_netns_on_link },
	{ "own-address-translated", own_address_translated },
};

/* As ztunnel is told it: mapped addresses are IPv4. */
static const char *show_asked(void)
{
	union name v4 = { .v4 = { .sin_family = AF_INET, .sin_port = asked.v6.sin6_port } };

	if (asked.any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&asked.v6.sin6_addr))
		return show(&asked);
	memcpy(&v4.v4.sin_addr, &asked.v6.sin6_addr.s6_addr[12], sizeof(v4.v4.sin_addr));
	return show(&v4);
}

/* What became of it: who answers, and whom the answer names. */
static void tell(const char *name, const char *set_, int fd)
{
	char line[512], local[80], peer[80], orig4[80], orig6[80];
	ssize_t got;

	printf("%s %s ", name, set_);
	if (fd == NONE) {
		puts("-");
		return;
	}
	errno = fd < 0 ? errno : 0;
	got = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	line[got > 0 ? got : 0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (got <= 0)
		printf("failed %s\n", errno ? strerrorname_np(errno) : "EOF");
	else if (sscanf(line, "local=%79s peer=%79s orig4=%79s orig6=%79s", local, peer, orig4,
			orig6) != 4)
		printf("? %s\n", line);
	else if (strstr(local, ":15001") &&
		 (!strcmp(orig4, show_asked()) || !strcmp(orig6, show_asked())))
		puts("captured");
	else if (strstr(local, ":80") &&
		 (strstr(peer, given("SELF")) || strstr(peer, given("SELF6"))))
		puts("ESCAPED");
	else if (strstr(local, ":80"))
		puts("passed-as-other");
	else
		printf("? not %s: %s\n", show_asked(), line);
}

static void make_attempt(const struct attempt *attempt, const char *set_)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	if (!child) {
		errno = 0;
		tell(attempt->name, set_, attempt->make());
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status)
		printf("%s %s ? died %#x\n", attempt->name, set_, status);
}

/* Programs that start and connections that are left half-way, until killed. */
static int storm(const char *self, const char *ip4)
{
	union name elsewhere = parse(ip4, "81");
	struct linger reset = { .l_onoff = 1 };

	puts("ready");
	fflush(stdout);
	for (;;) {
		pid_t child = vfork();

		if (!child) {
			execl(self, self, NULL);
			_exit(1);
		}
		for (int i = 0; i < 8; i++) {
			int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			connect(fd, &elsewhere.any, length(&elsewhere));
			close(fd);
		}
		waitpid(child, NULL, 0);
	}
}

/* Holds addresses in a netns of its own, from a cgroup of its own, until killed. */
static int squat(const char *cgroup, const char *v4, const char *v6)
{
	mkdir(cgroup, 0755);
	if (into_cgroup(cgroup) || own_namespaces(CLONE_NEWNET))
		return failed();
	if (ip("link add dummy type bridge\nlink set dummy up\naddr add %s/16 dev dummy\n"
	       "addr add %s/64 dev dummy nodad\n",
	       v4, v6))
		return failed();
	ip("link set lo up\n"); /* an exec, which is what onramp sees */
	puts("ready");
	fflush(stdout);
	return pause();
}

/* None given: all are. */
static bool is_wanted(const char *name, char **names)
{
	bool any = *names;

	for (; *names; names++)
		if (!strcmp(name, *names))
			return true;
	return !any;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	signal(SIGPIPE, SIG_IGN);
	server = at("SERVER", "80");
	if (!strcmp(what, "accomplice"))
		return accomplice(argv[2]);
	if (!strcmp(what, "advertise"))
		return advertise(argv[2]) ? failed() : 0;
	if (!strcmp(what, "storm"))
		return storm("/proc/self/exe", argv[2]);
	ip_refused = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!strcmp(what, "squat") && argc == 5)
		return squat(argv[2], argv[3], argv[4]);
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
		if (!strcmp(what, "make") && is_wanted(attempts[i].name, argv + 3))
			make_attempt(&attempts[i], argv[2]);
	return 0;
}
