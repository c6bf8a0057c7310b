// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "addr.h"
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <string.h>

bool addr_parse(const char *text, union addr *ip)
{
	*ip = v4_mapped;
	return inet_pton(AF_INET, text, &ip->word[3]) == 1 || inet_pton(AF_INET6, text, ip) == 1;
}

bool addr_is_v4(const union addr *ip)
{
	return !memcmp(ip, &v4_mapped, 12);
}

int addr_is_here(const union addr *ip)
{
	struct ifaddrs *all = NULL;
	int holds = 0;

	if (getifaddrs(&all))
		return -errno;
	for (struct ifaddrs *one = all; one; one = one->ifa_next) {
		struct sockaddr_in *v4 = (struct sockaddr_in *)one->ifa_addr;
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)one->ifa_addr;

		if (v4 && v4->sin_family == AF_INET && addr_is_v4(ip))
			holds |= v4->sin_addr.s_addr == ip->word[3];
		if (v6 && v6->sin6_family == AF_INET6)
			holds |= !memcmp(&v6->sin6_addr, ip, sizeof(*ip));
	}
	freeifaddrs(all);
	return holds;
}
