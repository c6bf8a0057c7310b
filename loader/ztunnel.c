// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which ztunnel: where it listens in node mode, and by what it is known. */
#include "loader.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static bool addr_equal(const union addr *a, const union addr *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

static bool addr_is_zero(const union addr *ip)
{
	return !ip->half[0] && !ip->half[1];
}

void ztunnel_addresses(const struct words *words, union addr ztunnel[FAMILIES])
{
	const char *of_family[FAMILIES] = {};

	for (int i = 0; i < words->count; i++) {
		const char *text = words->word[i];
		enum family family = strchr(text, ':') ? V6 : V4;
		union addr ip;

		if (!addr_parse(text, &ip))
			die("%s: give an IP address", text);
		if (IN6_IS_ADDR_LOOPBACK(&ip) || (family == V4 && ip.byte[12] == 127))
			die("%s: in-pod mode is load without -z", text);
		if (IN6_IS_ADDR_UNSPECIFIED(&ip) || IN6_IS_ADDR_LINKLOCAL(&ip) ||
		    IN6_IS_ADDR_MULTICAST(&ip) ||
		    (addr_is_v4(&ip) && (family == V6 || !ip.byte[12] || ip.byte[12] >= 224)))
			die("%s: no pod has such an address: give ztunnel's", text);
		if (of_family[family])
			die("%s and %s: two addresses of one family: give one of each",
			    of_family[family], text);
		of_family[family] = text;
		ztunnel[family] = ip;
	}
}

/* Whether something listens on the port in the loader's netns, by /proc/net/tcp or tcp6. */
static bool netns_listens_on(const char *table, __u16 port)
{
	FILE *file = fopen(table, "r");
	unsigned int local, state;
	bool listens = false;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local, &state) == 2)
			listens |= local == port && state == BPF_TCP_LISTEN;
	if (file)
		fclose(file);
	return listens;
}

/* Whether a connection to the port at ip is taken, within a second. */
static bool is_listened_at(const union addr *ip, __u16 port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = ip->word[3] };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct pollfd connecting = { .events = POLLOUT };
	socklen_t size = sizeof(v6);
	bool taken;

	memcpy(&v6.sin6_addr, ip, sizeof(*ip));
	connecting.fd = socket(addr_is_v4(ip) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (addr_is_v4(ip))
		connect(connecting.fd, (struct sockaddr *)&v4, sizeof(v4));
	else
		connect(connecting.fd, (struct sockaddr *)&v6, sizeof(v6));
	poll(&connecting, 1, 1000);
	taken = !getpeername(connecting.fd, (struct sockaddr *)&v6, &size);
	close(connecting.fd);
	return taken;
}

struct ztunnels ztunnels_seen(const struct options *options, const struct settings *wanted)
{
	struct ztunnels ztunnels = {};

	for (int i = 0; i < options->ztunnel_cgroups.count; i++)
		if (cgroup_id(options->ztunnel_cgroups.word[i]) == wanted->root_cgroup)
			die("%s: is all of -c: give the cgroup of ztunnel's pod",
			    options->ztunnel_cgroups.word[i]);
	for (enum family family = V4; family < FAMILIES; family++) {
		const union addr *ip = &wanted->ztunnel[family];

		if (addr_is_zero(ip) || addr_is_here(ip) <= 0)
			continue;
		ztunnels.own_netns = !options->ztunnel_cgroups.count;
		/* Not by a connection: whoever listens might take it for one of a pod's. */
		ztunnels.listens |=
			netns_listens_on("/proc/self/net/tcp", wanted->port[OUTBOUND]) ||
			netns_listens_on("/proc/self/net/tcp6", wanted->port[OUTBOUND]);
	}
	return ztunnels;
}

static void place_take(struct ztunnels *ztunnels, int map, const char *cgroup)
{
	__u64 id = cgroup_id(cgroup);
	struct ztunnel new = {}, before;
	__u64 never = 0, start = 0;
	int starts;
	bool known = !bpf_map_lookup_elem(map, &id, &new);

	while (!known && new.place < ZTUNNELS && ztunnels->taken[new.place]) new.place++;
	if (new.place >= ZTUNNELS)
		die("%s: four ztunnels are known: remove the cgroup of one, or onramp unload",
		    cgroup);
	if (!known) {
		entry_write(cgroup, map, &id, NULL, &new);
		/* As if it had never listened, whoever had its place. */
		starts = pinned_map("ztunnel_starts");
		bpf_map_lookup_elem(starts, &new.place, &start);
		entry_write(cgroup, starts, &new.place, &start, &never);
	}
	before = new;
	new.by_list = 0; /* whatever becomes of the list */
	if (known && before.by_list)
		entry_write(cgroup, map, &id, &before, &new);
	if (!known || !ztunnels->newest)
		ztunnels->newest = id;
	ztunnels->cgroup[new.place] = cgroup;
	ztunnels->taken[new.place] = true;
}

void ztunnels_write(const struct options *options, const struct settings *wanted,
		    const struct settings *before, struct ztunnels *ztunnels)
{
	int map = pinned_map("ztunnels");
	__u64 id, *last = NULL;
	struct ztunnel known;

	for (; !bpf_map_get_next_key(map, last, &id); last = &id)
		if (!bpf_map_lookup_elem(map, &id, &known) && known.place < ZTUNNELS)
			ztunnels->taken[known.place] = true;
	for (int i = 0; i < options->ztunnel_cgroups.count; i++)
		place_take(ztunnels, map, options->ztunnel_cgroups.word[i]);
	for (int place = 0; place < ZTUNNELS; place++)
		ztunnels->by_cgroup |= ztunnels->taken[place];
	if (wanted->mode == NODE_MODE)
		ztunnels->everywhere =
			!ztunnels->by_cgroup || ztunnels->own_netns || before->netns[0];
}

/* Whether the one before is another: has no address in common with this one. */
static bool follows(const struct settings *new, const struct settings *before)
{
	if (before->mode != NODE_MODE)
		return false;
	for (enum family family = V4; family < FAMILIES; family++)
		if (!addr_is_zero(&new->ztunnel[family]) &&
		    addr_equal(&new->ztunnel[family], &before->ztunnel[family]))
			return false;
	return true;
}

static void addresses_swap(struct settings *settings)
{
	union addr before[FAMILIES];

	memcpy(before, settings->ztunnel, sizeof(before));
	memcpy(settings->ztunnel, settings->next, sizeof(before));
	memcpy(settings->next, before, sizeof(before));
}

void ztunnel_follow(struct settings *settings, const struct settings *before,
		    struct ztunnels *ztunnels)
{
	if (settings->mode != NODE_MODE)
		return;
	memcpy(settings->netns, before->netns, sizeof(settings->netns));
	if (!follows(settings, before)) {
		memcpy(settings->next, before->next, sizeof(settings->next));
		settings->next_cgroup = before->next_cgroup;
		settings->next_netns = before->next_netns;
		settings->flags |= before->flags & ZTUNNEL_KNOWN;
	} else {
		memcpy(settings->next, before->ztunnel, sizeof(settings->next));
		ztunnels->waits = !ztunnels->listens && (ztunnels->newest || ztunnels->own_netns);
	}
	if (ztunnels->waits) {
		addresses_swap(settings);
		settings->next_cgroup = ztunnels->newest;
		settings->flags |= before->flags & ZTUNNEL_KNOWN;
	} else if (ztunnels->newest || ztunnels->own_netns) {
		settings->flags |= ZTUNNEL_KNOWN;
	}
}

void ztunnel_own_netns(struct settings *settings, const struct ztunnels *ztunnels)
{
	__u64 netns = pinned_number("iter_netns");
	int place = 0;

	while (place < ZTUNNELS - 1 && settings->netns[place] != netns) place++;
	memmove(&settings->netns[1], &settings->netns[0], place * sizeof(netns));
	settings->netns[0] = netns;
	if (ztunnels->waits)
		settings->next_netns = netns;
}

static bool pod_is_known(const union addr *ip)
{
	struct pod_ip pod;

	return !bpf_map_lookup_elem(pinned_map("pod_ips"), ip, &pod);
}

bool ztunnel_takes_over(struct settings *settings)
{
	bool listens = false;

	for (enum family family = V4; family < FAMILIES; family++)
		if ((settings->next_cgroup || settings->next_netns) &&
		    pod_is_known(&settings->next[family]))
			listens |=
				is_listened_at(&settings->next[family], settings->port[OUTBOUND]);
	if (!listens)
		return false;
	addresses_swap(settings);
	settings->next_cgroup = 0;
	settings->next_netns = 0;
	return true;
}

void ztunnel_warn(const struct options *options, const struct settings *settings,
		  const struct ztunnels *ztunnels)
{
	for (int i = 0; i < options->ztunnels.count; i++) {
		const char *text = options->ztunnels.word[i];
		union addr ip;

		if (addr_parse(text, &ip) && addr_is_here(&ip) <= 0 && !pod_is_known(&ip))
			warnx("warning: %s: no pod of this node holds it: is it ztunnel's?", text);
	}
	/* In in-pod mode onramp-zds makes it known. */
	if (settings->mode == NODE_MODE && !(settings->flags & ZTUNNEL_KNOWN) && !ztunnels->waits)
		warnx("warning: ztunnel is known by nothing: give its pod's cgroup: -t");
}
