// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hostile: packets of its own making. */
#include "hostile.h"
#include <linux/if_packet.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>

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

int raw_socket(void)
{
	int out = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), in;
	union name to = server;

	if (out < 0)
		return -1;
	in = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
	to.v4.sin_port = 0;
	return by_hand(out, &to, sizeof(to.v4), in);
}

int packet_socket(void)
{
	struct sockaddr_ll link = { .sll_family = AF_PACKET,
				    .sll_protocol = htons(ETH_P_IP),
				    .sll_ifindex = if_nametoindex("eth0"),
				    .sll_halen = ETH_ALEN };
	int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));

	memcpy(link.sll_addr, ether_aton(given("SERVER_MAC")), ETH_ALEN);
	return fd < 0 ? -1 : by_hand(fd, &link, sizeof(link), fd);
}

int raw_in_own_userns(void)
{
	return own_namespaces(0) ? -1 : raw_socket();
}

/*
 * A router advertisement to all on the link, this pod with them: the kernel
 * loops it back, and takes one from an address that is not its own.
 */
int advertise(const char *prefix)
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
