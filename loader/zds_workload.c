// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: what a workload's file says of its pod, read from its text, and compared. */
#include "zds.h"

/* As Kubernetes' names are: ztunnel takes no packet with a string that is not UTF-8. */
static bool is_plain(const char *text)
{
	for (; *text; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

/* One of KEY=VALUE's. False: there is no such key, or not such a value. */
static bool key_read(const char *key, const char *value, struct workload *workload)
{
	char *name = NULL;
	bool is_true = !strcmp(value, "true"), is_bool = is_true || !strcmp(value, "false");

	if (!strcmp(key, "namespace"))
		name = workload->namespace;
	if (!strcmp(key, "name"))
		name = workload->name;
	if (!strcmp(key, "service_account"))
		name = workload->service_account;
	if (name && (!*value || *name || strlen(value) >= MAX_NAME || !is_plain(value)))
		return false; /* empty, said twice, too long, no name */
	if (name) {
		strcpy(name, value);
		return true;
	}
	if (!strcmp(key, "bypass_inbound") && is_bool) {
		workload->bypass_inbound = is_true;
		return true;
	}
	if (!strcmp(key, "dns") && is_bool) {
		workload->says_dns = true;
		workload->dns = is_true;
		return true;
	}
	if (!strcmp(key, "ip") && workload->ips < MAX_IPS) {
		workload->ips++;
		return addr_parse(value, &workload->ip[workload->ips - 1]);
	}
	return !strcmp(key, "by");
}

const char *workload_parse(char *text, struct workload *workload)
{
	char *line, *rest = text;

	*workload = (struct workload){};
	while ((line = strsep(&rest, "\n"))) {
		char *value = strchr(line, '=');

		if (!*line || *line == '#')
			continue;
		if (!value)
			return "a line without =";
		*value = '\0';
		if (!key_read(line, value + 1, workload))
			return "a key or value that is not known";
	}
	if (!*workload->namespace || !*workload->name || !*workload->service_account)
		return "no namespace, name or service_account";
	return NULL;
}

bool workload_is_same_pod(const struct workload *one, const struct workload *other)
{
	return !strcmp(one->namespace, other->namespace) && !strcmp(one->name, other->name) &&
	       !strcmp(one->service_account, other->service_account);
}

int dns_of(const struct workload *workload)
{
	return workload->says_dns ? 1 + workload->dns : 0;
}

bool workload_is_same(const struct workload *one, const struct workload *other)
{
	return one->bypass_inbound == other->bypass_inbound && dns_of(one) == dns_of(other) &&
	       workload_is_same_pod(one, other);
}
