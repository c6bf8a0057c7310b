// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hostile: other names for the server; where it comes from, and by which way. */
#include "hostile.h"
#include <linux/seg6.h>
#include <stddef.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>

/* ---- names for the server ---- */

static int dial_embedded(const char *prefix)
{
	char text[80];
	union name to;

	snprintf(text, sizeof(text), "%s%s", prefix, given("SERVER"));
	to = parse(text, "80");
	return dial_new(&to);
}

int mapped(void)
{
	return dial_embedded("::ffff:");
}

int compatible(void)
{
	return dial_embedded("::");
}

int translated(void)
{
	return dial_embedded("::ffff:0:");
}

int nat64(void)
{
	return dial_embedded("64:ff9b::");
}

int ipv6(void)
{
	union name to = at("SERVER6", "80");

	return dial_new(&to);
}

int zone(void)
{
	union name to = at("SERVER6", "80");

	to.v6.sin6_scope_id = if_nametoindex("eth0");
	return dial_new(&to);
}

int servers_link_local(void)
{
	union name to = at("SERVER_LOCAL", "80");

	return dial_new(&to);
}

int nodes_link_local(void)
{
	union name to = at("NODE_LOCAL", "80");

	return dial_new(&to);
}

/* Without the field for the zone, which the kernel accepts. */
int short_name(void)
{
	union name to = asked = at("SERVER6", "80");
	int fd = tcp(AF_INET6);

	be_patient(fd, PATIENCE_MS);
	return connect(fd, &to.any, offsetof(struct sockaddr_in6, sin6_scope_id)) ? -1 : fd;
}

int other_familys_name(void)
{
	return dial(tcp(AF_INET6), &server);
}

int ztunnels_inbound_port(void)
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

int from_loopback(void)
{
	return from("127.0.0.1", 0);
}

int from_ztunnels_address(void)
{
	return from(given("ZTUNNEL"), IP_FREEBIND);
}

int from_ztunnels_transparently(void)
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

int by_eth0(void)
{
	return by_device("eth0", PATIENCE_MS);
}

int by_lo(void)
{
	return by_device("lo", NO_HOPE_MS);
}

/* Loose source route: the packets go to the server first. */
int ipv4_source_route(void)
{
	unsigned char option[8] = { IPOPT_NOP, IPOPT_LSRR, 7, 4 };
	int fd = tcp(AF_INET);

	memcpy(option + 4, &server.v4.sin_addr, 4);
	if (setsockopt(fd, IPPROTO_IP, IP_OPTIONS, option, sizeof(option)))
		return -1;
	return dial_for(NO_HOPE_MS, fd, &server);
}

/* Segment routing header that has arrived: the same for IPv6. */
int ipv6_source_route(void)
{
	union name to = at("SERVER6", "80");
	struct {
		struct ipv6_sr_hdr header;
		struct in6_addr segment;
	} route = { .header = { .hdrlen = 2, .type = 4 }, .segment = to.v6.sin6_addr };
	union name own = at("SELF6", "0");
	int fd = bound(tcp(AF_INET6), &own); /* or in-pod mode has it dial an IPv4 address */

	if (setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, &route, sizeof(route)))
		return -1;
	return dial_for(NO_HOPE_MS, fd, &to);
}

/* In repair mode connect() sends nothing: the socket is at once established. */
int repair(void)
{
	int fd = tcp(AF_INET);

	if (set(fd, IPPROTO_TCP, TCP_REPAIR, 1) || dial(fd, &server) < 0 ||
	    set(fd, IPPROTO_TCP, TCP_REPAIR, 0))
		return -1;
	if (write(fd, "x", 1) != 1)
		return -1;
	return fd;
}
