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
#include "hostile.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

union name server, asked;
bool *ip_refused;

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
