// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hostile: who it is, in which cgroup, and whose socket it has. */
#include "hostile.h"
#include "passing.h"
#include <sys/stat.h>
#include <sys/un.h>

/* ---- who it is ---- */

int plain(void)
{
	return dial_new(&server);
}

int listens_as_ztunnel(void)
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

int ztunnels_mark(void)
{
	int fd = tcp(AF_INET);

	return set(fd, SOL_SOCKET, SO_MARK, ZTUNNEL_MARK) ? -1 : dial(fd, &server);
}

int ztunnels_uid(void)
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
int own_namespaces(int others)
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

int own_userns(void)
{
	return own_namespaces(0) ? -1 : dial_new(&server);
}

int own_userns_mark(void)
{
	return own_namespaces(0) ? -1 : ztunnels_mark();
}

int own_netns_then_socket(void)
{
	return own_namespaces(CLONE_NEWNET) ? -1 : dial_new(&server);
}

int own_netns_after_socket(void)
{
	int fd = tcp(AF_INET);

	return own_namespaces(CLONE_NEWNET) ? -1 : dial(fd, &server);
}

int own_netns_and_back(void)
{
	int pods = open("/proc/self/ns/net", O_RDONLY);

	if (own_namespaces(CLONE_NEWNET) || setns(pods, CLONE_NEWNET))
		return -1;
	return dial_new(&server);
}

/* ---- cgroups ---- */

int into_cgroup(const char *path)
{
	char procs[2000];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", path);
	return write_to(procs, "0");
}

/* Makes cgroups below its own, one in another, named as ztunnel's; enters the last. */
int cgroups_below(void)
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

int cgroup_renamed(void)
{
	char from[500], to[500];

	snprintf(from, sizeof(from), "%s/a", given("CGROUP"));
	snprintf(to, sizeof(to), "%s/b", given("CGROUP"));
	if ((mkdir(from, 0755) && errno != EEXIST) || into_cgroup(from) || rename(from, to))
		return -1;
	return dial_new(&server);
}

/* ---- sockets passed between pods ---- */

static struct sockaddr_un unix_name(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	strncpy(name.sun_path, path, sizeof(name.sun_path) - 1);
	return name;
}

/* Given a socket dials with it; given none makes one to give. */
int accomplice(const char *path)
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

int socket_of_other_pod(void)
{
	return dial(ask_accomplice(-1), &server);
}

int socket_dialled_by_other_pod(void)
{
	return ask_accomplice(tcp(AF_INET));
}
