// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hostile: bPF, and its own netns changed. */
#include "hostile.h"
#include "passing.h"
#include <linux/bpf.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/mman.h>

/* ---- BPF ---- */

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

int bpf_maps(void)
{
	union bpf_attr attr = {};

	if (bpf(BPF_MAP_GET_NEXT_ID, &attr))
		return -1;
	attr.map_id = attr.next_id;
	return bpf(BPF_MAP_GET_FD_BY_ID, &attr) < 0 ? -1 : dial_new(&server);
}

/* Some kernels ask for no capability here, only for the directory. */
int bpf_detach(void)
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
int ip(const char *format, ...)
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
int dial_and_restore(void)
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

int takes_ztunnels_address(void)
{
	return takes_address(given("ZTUNNEL"));
}

int takes_foreign_address(void)
{
	return takes_address("10.77.3.77"); /* that no rule enrols */
}

int address_on_loopback(void)
{
	if (ip("addr flush dev eth0 scope global\naddr add %s/32 dev lo\n"
	       "route add 10.77.0.0/16 dev eth0 src %s\n",
	       given("SELF"), given("SELF")))
		return -1;
	return dial_and_restore();
}

/* An address of its own netns by its devices, not by its routes. */
int takes_servers_address(void)
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

int many_addresses(void)
{
	char *text = NULL;
	size_t size;
	FILE *batch = open_memstream(&text, &size);

	for (int i = 0; i < (getenv("ONRAMP_TEST_VM") ? 20 : 300); i++)
		fprintf(batch, "addr add 10.99.%d.%d/32 dev eth0\n", i / 200, 1 + i % 200);
	fclose(batch);
	return ip("%s", text) ? -1 : dial_and_restore();
}

int many_devices(void)
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
int second_netns_on_link(void)
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
int own_address_translated(void)
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
