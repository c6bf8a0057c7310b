// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * pods - light pods, as many as a node ever sees, without a shell for each.
 *
 *   pods [OPTION]... CGROUP NET COUNT ALIVE TCP ARGUMENT...
 *
 * Run as a node program: makes COUNT pods, at most ALIVE at a time; then one that
 * the seed chooses ends for each new one. Pod N is a netns with eth0, which holds
 * 10.NET.x.y and fd00:NET::x, where x and y are of N; a route to these in the
 * node's; a cgroup CGROUP/N; and a process of build/tcp with the arguments, whose
 * first line it waits for and whose standard input ends with the pod. It then dials
 * the pod's port 80 in one family, itself: that listens, and answers as tcp serve.
 *
 * Prints what the pods say, and of its own connections "node proxied=" and so on.
 * When all are made it says "made COUNT", and keeps the last until its standard
 * input ends.
 *
 *   -n FATE    what its own connections should come to: see tcp soak
 *   -p MS      a pause after each pod; and no more once standard input has ended
 *   -s SEED    who ends next
 *   -u         cgroups are named as a kubelet names a pod's: podUID, the last digits N's
 *   -z CGROUP  also "tcp serve :: 15001" in the pod's netns, in CGROUP/N
 */
#include "fates.h"
#include <fcntl.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ETH0 100      /* index: behind all that the kernel itself may put there */
#define OTHERS 100000 /* the node's ends begin behind this index, and NET further */

#define UID_FORMAT "%s/pod00000000-0000-4000-8000-%012x"

static int node_netns, node_rtnl, net;
static bool uids;
static const char *netns_of_node = "/proc/self/ns/net";

static void die(const char *what)
{
	fprintf(stderr, "pods: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int need(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

/* rtnetlink: a request, its attributes, and the kernel's answer. */
struct request {
	struct nlmsghdr head;
	char room[2048];
};

static void *put(struct request *request, const void *data, size_t size)
{
	void *at = (char *)request + NLMSG_ALIGN(request->head.nlmsg_len);

	memcpy(at, data, size);
	request->head.nlmsg_len = NLMSG_ALIGN(request->head.nlmsg_len) + NLMSG_ALIGN(size);
	return at;
}

static struct rtattr *attribute(struct request *request, int type, const void *data, size_t size)
{
	struct rtattr head = { .rta_len = RTA_LENGTH(size), .rta_type = type };
	struct rtattr *at = put(request, &head, sizeof(head));

	put(request, data, size);
	return at;
}

static void nest_ends(struct request *request, struct rtattr *nest)
{
	nest->rta_len = (char *)request + request->head.nlmsg_len - (char *)nest;
}

static struct request request_for(int type, const void *body, size_t size)
{
	struct request request = { .head = { .nlmsg_len = NLMSG_LENGTH(0),
					     .nlmsg_type = type,
					     .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK |
							    NLM_F_CREATE | NLM_F_EXCL } };

	put(&request, body, size);
	return request;
}

/* The kernel's answer is in its place then. */
static void ask(int rtnl, struct request *request, const char *what)
{
	struct nlmsgerr *error = NLMSG_DATA(&request->head);

	need(send(rtnl, request, request->head.nlmsg_len, 0), what);
	need(recv(rtnl, request, sizeof(*request), 0), what);
	if (request->head.nlmsg_type == NLMSG_ERROR && (errno = -error->error))
		die(what);
}

static int rtnl_here(void)
{
	return need(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "rtnetlink");
}

static void set_up(int rtnl, int device)
{
	struct ifinfomsg up = { .ifi_index = device, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	struct request request = request_for(RTM_NEWLINK, &up, sizeof(up));

	request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	ask(rtnl, &request, "up");
}

static bool is_up(const struct request *link)
{
	int size = link->head.nlmsg_len - NLMSG_SPACE(sizeof(struct ifinfomsg));
	struct rtattr *at = IFLA_RTA(NLMSG_DATA(&link->head));

	for (; RTA_OK(at, size); at = RTA_NEXT(at, size))
		if (at->rta_type == IFLA_OPERSTATE)
			return *(char *)RTA_DATA(at) == IF_OPER_UP;
	return false;
}

static bool is_local(const struct request *route)
{
	return ((struct rtmsg *)NLMSG_DATA(&route->head))->rtm_type == RTN_LOCAL;
}

/* The kernel does some things a moment later. */
static void ask_until(bool (*right)(const struct request *), int rtnl, struct request *question,
		      const char *what)
{
	struct request answer;

	question->head.nlmsg_flags = NLM_F_REQUEST;
	for (int tries = 0; tries < 50000; tries++) {
		answer = *question;
		ask(rtnl, &answer, what);
		if (right(&answer))
			return;
		usleep(100);
	}
	errno = ETIMEDOUT;
	die(what);
}

/*
 * A pair without ARP, whose ends have one address: each takes what the other
 * sends, and no bridge's number of ports is the limit.
 */
static void add_pair(int rtnl, int n)
{
	static const char mac[6] = { 2 };
	struct ifinfomsg here = { .ifi_index = ETH0,
				  .ifi_flags = IFF_UP | IFF_NOARP,
				  .ifi_change = IFF_UP | IFF_NOARP };
	struct ifinfomsg there = { .ifi_index = OTHERS * (net + 1) + n,
				   .ifi_flags = IFF_NOARP,
				   .ifi_change = IFF_NOARP };
	struct request request = request_for(RTM_NEWLINK, &here, sizeof(here));
	struct rtattr *info, *data, *peer;
	char name[IFNAMSIZ];

	attribute(&request, IFLA_IFNAME, "eth0", 5);
	attribute(&request, IFLA_ADDRESS, mac, sizeof(mac));
	info = attribute(&request, IFLA_LINKINFO, "", 0);
	attribute(&request, IFLA_INFO_KIND, "veth", 4);
	data = attribute(&request, IFLA_INFO_DATA, "", 0);
	peer = attribute(&request, VETH_INFO_PEER, "", 0);
	put(&request, &there, sizeof(there));
	snprintf(name, sizeof(name), "p%d-%d", net, n);
	attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
	attribute(&request, IFLA_ADDRESS, mac, sizeof(mac));
	attribute(&request, IFLA_NET_NS_FD, &node_netns, sizeof(node_netns));
	nest_ends(&request, peer);
	nest_ends(&request, data);
	nest_ends(&request, info);
	ask(rtnl, &request, "veth");
	set_up(node_rtnl, there.ifi_index); /* not before it has its other end */
	set_up(rtnl, 1);		    /* loopback */
	here = (struct ifinfomsg){ .ifi_index = ETH0 };
	request = request_for(RTM_GETLINK, &here, sizeof(here));
	ask_until(is_up, rtnl, &request, "carrier"); /* till then it drops all packets */
}

/* All of an address, or where it is NULL everything: by that device. */
static void add_route(int rtnl, int family, const void *ip, size_t size, int device)
{
	struct rtmsg route = { .rtm_family = family,
			       .rtm_dst_len = ip ? size * 8 : 0,
			       .rtm_table = RT_TABLE_MAIN,
			       .rtm_protocol = RTPROT_STATIC,
			       .rtm_scope = RT_SCOPE_LINK,
			       .rtm_type = RTN_UNICAST };
	struct request request = request_for(RTM_NEWROUTE, &route, sizeof(route));

	if (ip)
		attribute(&request, RTA_DST, ip, size);
	attribute(&request, RTA_OIF, &device, sizeof(device));
	ask(rtnl, &request, "route");
}

static void add_address(int rtnl, const union name *name, int n)
{
	bool v4 = name->any.sa_family == AF_INET;
	const void *ip = v4 ? (void *)&name->v4.sin_addr : &name->v6.sin6_addr;
	size_t size = v4 ? 4 : 16;
	struct ifaddrmsg address = { .ifa_family = name->any.sa_family,
				     .ifa_prefixlen = size * 8,
				     .ifa_flags = IFA_F_NODAD,
				     .ifa_index = ETH0 };
	struct rtmsg route = { .rtm_family = name->any.sa_family, .rtm_dst_len = size * 8 };
	struct request request = request_for(RTM_NEWADDR, &address, sizeof(address));

	attribute(&request, IFA_LOCAL, ip, size);
	attribute(&request, IFA_ADDRESS, ip, size);
	ask(rtnl, &request, "address");
	add_route(rtnl, name->any.sa_family, NULL, size, ETH0);
	add_route(node_rtnl, name->any.sa_family, ip, size, OTHERS * (net + 1) + n);
	request = request_for(RTM_GETROUTE, &route, sizeof(route));
	attribute(&request, RTA_DST, ip, size);
	ask_until(is_local, rtnl, &request, "address");
}

/* A program in a cgroup of its own; its standard input and output are fd. */
struct process {
	pid_t pid;
	int fd;
	char cgroup[256];
};

static struct process start(const char *parent, int n, char **argv)
{
	struct process process;
	int ends[2];

	snprintf(process.cgroup, sizeof(process.cgroup), uids ? UID_FORMAT : "%s/%d", parent, n);
	need(mkdir(process.cgroup, 0755), process.cgroup);
	need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
	process.fd = ends[0];
	process.pid = need(fork(), "fork");
	if (!process.pid) {
		int dir = need(open(process.cgroup, O_DIRECTORY), process.cgroup);
		int procs = need(openat(dir, "cgroup.procs", O_WRONLY), process.cgroup);

		need(write(procs, "0", 1), process.cgroup);
		dup2(ends[1], 0);
		dup2(ends[1], 1);
		close(dir);
		close(procs);
		execv(argv[0], argv);
		die(argv[0]);
	}
	close(ends[1]);
	return process;
}

/* One line of its output, or with `all` what is left: the pods' to ours. */
static void read_from(struct process *process, bool all, bool show_it)
{
	char text[256];
	ssize_t got;

	do {
		got = read(process->fd, text, sizeof(text));
		if (got > 0 && show_it)
			fwrite(text, 1, got, stdout);
	} while (got > 0 && (all || !memchr(text, '\n', got)));
	fflush(stdout); /* or the next process writes it too */
}

static void end(struct process *process)
{
	shutdown(process->fd, SHUT_WR);
	read_from(process, true, true);
	close(process->fd);
	waitpid(process->pid, NULL, 0);
	/* The kernel may let it go a moment later. */
	for (int tries = 1000; rmdir(process->cgroup); tries--) {
		if (errno != EBUSY || !tries)
			die(process->cgroup);
		usleep(1000);
	}
}

struct pod {
	struct process program, ztunnel; /* pid 0: none */
	int listener;
};

static int listener_here(void)
{
	union name any = parse("::", "80");
	int fd = need(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	need(bind(fd, &any.any, length(&any)), "bind");
	need(listen(fd, 16), "listen");
	return fd;
}

static struct pod pod_begins(int n, const union name name[2], const char *cgroup,
			     const char *ztunnel, char **argv)
{
	char *serve[] = { argv[0], "serve", "::", "15001", NULL };
	struct pod pod = {};
	int rtnl;

	need(unshare(CLONE_NEWNET), "unshare");
	rtnl = rtnl_here();
	add_pair(rtnl, n);
	for (int i = 0; i < 2; i++) add_address(rtnl, &name[i], n);
	close(rtnl);
	pod.listener = listener_here();
	if (ztunnel) {
		pod.ztunnel = start(ztunnel, n, serve);
		read_from(&pod.ztunnel, false, false);
	}
	pod.program = start(cgroup, n, argv);
	need(setns(node_netns, CLONE_NEWNET), netns_of_node);
	read_from(&pod.program, false, true);
	return pod;
}

static void pod_ends(struct pod *pod)
{
	end(&pod->program);
	if (pod->ztunnel.pid) {
		kill(pod->ztunnel.pid, SIGKILL);
		end(&pod->ztunnel);
	}
	close(pod->listener);
}

/* As a node program, to the pod: which answers itself, where it is reached. */
static void dial_pod(const union name *to, int listener, struct tally *tally)
{
	struct pollfd ends[2] = { { .fd = listener, .events = POLLIN }, { .events = POLLIN } };
	int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	enum fate fate = FAILED;
	double began = now();
	char line[512] = "";

	errno = 0;
	if (!connect_within(fd, to)) {
		ends[1].fd = fd;
		poll(ends, 2, TIMEOUT_MS);
		if (ends[0].revents) {
			int accepted = accept(listener, NULL, NULL);

			dprintf(accepted, "local=%s \n", show(to));
			close(accepted);
		}
		fate = fate_of(fd, to, line, sizeof(line));
	} else {
		snprintf(line, sizeof(line), "%s", strerrorname_np(errno));
		close(fd);
	}
	judge(tally, began, to, fate, line);
}

static bool told_to_end(int ms)
{
	return poll(&(struct pollfd){ .fd = 0, .events = POLLIN }, 1, ms);
}

static void names_of(int n, union name name[2])
{
	char ip[64];

	snprintf(ip, sizeof(ip), "10.%d.%d.%d", net, n / 250 % 256, n % 250 + 1);
	name[0] = parse(ip, "80");
	snprintf(ip, sizeof(ip), "fd00:%d::%x", net, n + 1);
	name[1] = parse(ip, "80");
}

int main(int argc, char **argv)
{
	struct rlimit files = { 1 << 16, 1 << 16 };
	struct tally tally = { .wanted = FATES };
	const char *cgroup, *ztunnel = NULL;
	int option, count, most, alive = 0, n, pause = 0;
	union name name[2];
	struct pod *pods;
	char none;

	while ((option = getopt(argc, argv, "+n:p:s:uz:")) > 0) {
		if (option == 'n')
			tally.wanted = fate_named(optarg);
		else if (option == 'p')
			pause = atoi(optarg);
		else if (option == 's')
			srandom(atoi(optarg));
		else if (option == 'u')
			uids = true;
		else if (option == 'z')
			ztunnel = optarg;
		else
			return 2;
	}
	if (argc - optind < 6) {
		fputs("pods: see the top of vmtests/pods.c\n", stderr);
		return 2;
	}
	argv += optind;
	cgroup = argv[0], net = atoi(argv[1]), count = atoi(argv[2]), most = atoi(argv[3]);
	pods = calloc(most, sizeof(*pods));
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	node_netns = need(open(netns_of_node, O_RDONLY | O_CLOEXEC), netns_of_node);
	node_rtnl = rtnl_here();
	for (n = 0; n < count && !(pause && told_to_end(pause)); n++) {
		int place = alive < most ? alive++ : random() % most;

		if (n >= most)
			pod_ends(&pods[place]);
		names_of(n, name);
		pods[place] = pod_begins(n, name, cgroup, ztunnel, argv + 4);
		dial_pod(&name[n % 2], pods[place].listener, &tally);
		if (n % 100 == 99)
			tell("node ", &tally);
	}
	tell("node ", &tally);
	printf("made %d\n", n);
	fflush(stdout);
	while (read(0, &none, 1) > 0)
		;
	while (alive > 0) pod_ends(&pods[--alive]);
	return 0;
}
