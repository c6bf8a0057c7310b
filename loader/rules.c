// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Rules: as people write them, as mesh_rules, bypass_rules and mesh_pods hold them. */
#include "loader.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <limits.h>

#define ROOM 65536 /* more than a map holds, for others may change it meanwhile */
#define CIDR_STRLEN (INET6_ADDRSTRLEN + sizeof("/128"))

/* Its first bits, and zeros. */
static union addr network_of(union addr ip, unsigned int length)
{
	for (unsigned int bit = length; bit < 128; bit++) ip.byte[bit / 8] &= ~(0x80 >> bit % 8);
	return ip;
}

static bool is_v4(const struct prefix *prefix)
{
	return prefix->length >= 96 && !memcmp(&prefix->ip, &v4_mapped, 12);
}

/* A prefix of IPv6 that would speak of IPv4 as well, as ::/0 does. */
static bool covers_v4(const struct prefix *prefix)
{
	union addr network = network_of(v4_mapped, prefix->length);

	return prefix->length < 96 && !memcmp(&network, &prefix->ip, sizeof(network));
}

static const char *cidr_text(const struct prefix *prefix, char *text)
{
	char ip[INET6_ADDRSTRLEN];
	bool v4 = is_v4(prefix);

	if (v4)
		inet_ntop(AF_INET, &prefix->ip.word[3], ip, sizeof(ip));
	else
		inet_ntop(AF_INET6, &prefix->ip, ip, sizeof(ip));
	snprintf(text, CIDR_STRLEN, "%s/%u", ip, v4 ? prefix->length - 96 : prefix->length);
	return text;
}

static struct prefix cidr_parse(const char *text)
{
	const char *slash = strchrnul(text, '/');
	char ip[INET6_ADDRSTRLEN] = "", network[CIDR_STRLEN], host[CIDR_STRLEN], *end = "";
	struct prefix prefix, all_bits = { .length = 128 };
	union addr address;
	long length, bits;

	if (slash - text < (long)sizeof(ip))
		memcpy(ip, text, slash - text);
	if (!addr_parse(ip, &address))
		die("%s: give an IP address, a CIDR or a pod's UID", text);
	bits = strchr(ip, ':') ? 128 : 32;
	length = bits;
	if (*slash)
		length = strtol(slash + 1, &end, 10);
	if (*end || length > bits || (*slash && !isdigit(slash[1])))
		die("%s: give 0 to %ld bits", text, bits);
	prefix.length = 128 - bits + length;
	prefix.ip = network_of(address, prefix.length);
	all_bits.ip = address;
	if (memcmp(&prefix.ip, &address, sizeof(address)))
		die("%s: has host bits: did you mean %s or %s?", text, cidr_text(&prefix, network),
		    cidr_text(&all_bits, host));
	return prefix;
}

struct wish wish_parse(const char *text, __u32 rule)
{
	struct wish wish = { .text = text, .rule = rule };
	const char *end = uid_parse(text, strchr(text, '-') ? '-' : 0, &wish.uid);

	wish.of_pod = end && !*end;
	if (wish.of_pod && rule == RULE_BYPASS)
		die("%s: -b is for destinations: give a CIDR", text);
	if (!wish.of_pod)
		wish.prefix = cidr_parse(text);
	return wish;
}

struct entry {
	struct prefix prefix;
	__u32 value;
};

static struct table {
	const char *name;
	int map;
	struct entry *entries; /* in the order of compare(); NULL: not read yet */
	size_t count;
} mesh_rules = { .name = "mesh_rules" }, bypass_rules = { .name = "bypass_rules" };

/* By address, wider prefixes first. */
static int compare(const void *one, const void *other)
{
	const struct prefix *a = one, *b = other;
	int order = memcmp(&a->ip, &b->ip, sizeof(a->ip));

	return order ? order : (int)a->length - (int)b->length;
}

/* All of it: a look-up would be content with a wider prefix than the one it is given. */
static void table_read(struct table *table)
{
	struct entry *entry;
	struct prefix *last = NULL;

	if (table->entries)
		return;
	table->map = pinned_map(table->name);
	table->entries = calloc(ROOM, sizeof(*entry));
	if (!table->entries)
		die("no memory");
	entry = table->entries;
	while (table->count < ROOM && !bpf_map_get_next_key(table->map, last, &entry->prefix)) {
		bpf_map_lookup_elem(table->map, &entry->prefix, &entry->value);
		last = &entry->prefix;
		entry++;
		table->count++;
	}
	qsort(table->entries, table->count, sizeof(*entry), compare);
}

static const struct entry *table_find(struct table *table, const struct prefix *prefix)
{
	table_read(table);
	return bsearch(prefix, table->entries, table->count, sizeof(struct entry), compare);
}

static void cidr_rule_write(const struct wish *wish)
{
	struct table *table = wish->rule == RULE_BYPASS ? &bypass_rules : &mesh_rules;
	__u32 value = wish->rule | (covers_v4(&wish->prefix) ? RULE_V6_ONLY : 0);
	const struct entry *entry = table_find(table, &wish->prefix);

	entry_write(wish->text, table->map, &wish->prefix, entry ? &entry->value : NULL, &value);
}

/* Whatever it says of a prefix: of pods, of destinations, or of both. */
static void cidr_forget(const struct wish *wish)
{
	struct table *const tables[] = { &mesh_rules, &bypass_rules };
	const struct entry *entry;
	bool is_there = false;

	for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
		entry = table_find(tables[i], &wish->prefix);
		if (!entry)
			continue;
		is_there = true;
		entry_write(wish->text, tables[i]->map, &wish->prefix, &entry->value, NULL);
	}
	if (!is_there)
		die("%s: no such rule: see onramp rules", wish->text);
}

static __u32 pod_word(int map, const union uid *uid)
{
	__u32 word = 0;

	bpf_map_lookup_elem(map, uid, &word);
	return word;
}

static void pod_rule_write(const struct wish *wish, int map)
{
	__u32 before = pod_word(map, &wish->uid), after = before & ~(POD_IN | POD_OUT);

	if (!wish->rule && after == before)
		die("%s: no such rule: see onramp rules", wish->text);
	if (wish->rule == RULE_IN)
		after |= POD_IN;
	if (wish->rule == RULE_OUT)
		after |= POD_OUT;
	entry_write(wish->text, map, &wish->uid, before ? &before : NULL, after ? &after : NULL);
}

static void files_write(DIR *files, __u32 bit)
{
	int map = pinned_map("mesh_pods");
	struct dirent *file;
	union uid uid;

	while ((file = readdir(files))) {
		__u32 before, after;

		if (!uid_of_file(file->d_name, &uid))
			continue;
		before = pod_word(map, &uid);
		if (before & (POD_ZDS_IN | POD_ZDS_OUT))
			continue; /* it joins, whatever else is said of it; or onramp-zds has it */
		after = before | bit;
		entry_write(file->d_name, map, &uid, before ? &before : NULL, &after);
	}
	closedir(files);
}

void workloads_join(const char *directory)
{
	DIR *files = opendir(directory);
	char outside[PATH_MAX];

	if (!files)
		die("%s: %m: give the directory of onramp-zds' workloads", directory);
	files_write(files, POD_ZDS_IN);
	snprintf(outside, sizeof(outside), "%s/outside", directory);
	files = opendir(outside); /* those that stay out, where somebody says so */
	if (files)
		files_write(files, POD_ZDS_OUT);
}

void rules_write(const struct wish *wishes, int count)
{
	int map = pinned_map("mesh_pods");

	for (int i = 0; i < count; i++) {
		if (wishes[i].of_pod)
			pod_rule_write(&wishes[i], map);
		else if (wishes[i].rule)
			cidr_rule_write(&wishes[i]);
		else
			cidr_forget(&wishes[i]);
	}
}

static const char *rule_name(__u32 rule)
{
	static const char *const names[] = { "?", "in", "out", "bypass" };

	return names[rule < sizeof(names) / sizeof(*names) ? rule : 0];
}

static void table_list(struct table *table)
{
	char text[CIDR_STRLEN];

	table_read(table);
	for (size_t i = 0; i < table->count; i++) {
		const struct entry *entry = &table->entries[i];

		if (i && !compare(entry, entry - 1))
			continue; /* it was read twice */
		printf("%-8s%s\n", rule_name(entry->value & ~RULE_V6_ONLY),
		       cidr_text(&entry->prefix, text));
	}
}

static void pod_list(const union uid *uid, __u32 bits)
{
	char text[UID_STRLEN];

	if (!(bits & (POD_IN | POD_OUT)))
		return; /* zds' alone */
	uid_write(uid, text);
	printf("%-8s%s\n", rule_name(bits & POD_OUT ? RULE_OUT : RULE_IN), text);
}

void rules_list(void)
{
	int map = pinned_map("mesh_pods");
	union uid uid, *last = NULL;
	__u32 bits;

	table_list(&mesh_rules);
	table_list(&bypass_rules);
	for (; !bpf_map_get_next_key(map, last, &uid); last = &uid)
		if (!bpf_map_lookup_elem(map, &uid, &bits))
			pod_list(&uid, bits);
	if (fflush(stdout))
		die("standard output: %m");
}
