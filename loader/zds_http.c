// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: /metrics, what BPF counts and what we do, and /healthz. */
#include "zds.h"
#include <arpa/inet.h>
#include <microhttpd.h>

#define REST 200

static struct MHD_Daemon *server;
static int epoll;	  /* the library's */
static __u64 rests_until; /* it does; 0: it does not */

static void write_counts(FILE *text)
{
	unsigned long enabled = 0, pending = 0;

	for (const struct pod *pod = pods; pod; pod = pod->next) {
		enabled += pod->is_enabled;
		pending += !pod->is_enabled && !pod->leaves;
	}
	fprintf(text,
		"# HELP onramp_zds_pods Pods that are said to be in the mesh.\n"
		"# TYPE onramp_zds_pods gauge\n"
		"onramp_zds_pods{state=\"enabled\"} %lu\n"
		"onramp_zds_pods{state=\"pending\"} %lu\n",
		enabled, pending);
	fprintf(text,
		"# HELP onramp_zds_answers_total What ztunnels answered.\n"
		"# TYPE onramp_zds_answers_total counter\n"
		"onramp_zds_answers_total{answer=\"ack\"} %lu\n"
		"onramp_zds_answers_total{answer=\"nack\"} %lu\n",
		peer_counts.acks, peer_counts.nacks);
	fprintf(text,
		"# HELP onramp_zds_connections_total Connections to the ZDS socket.\n"
		"# TYPE onramp_zds_connections_total counter\n"
		"onramp_zds_connections_total{what=\"ztunnel\"} %lu\n"
		"onramp_zds_connections_total{what=\"turned_away\"} %lu\n"
		"onramp_zds_connections_total{what=\"dropped\"} %lu\n",
		peer_counts.connections, peer_counts.turned_away, peer_counts.dropped);
	fprintf(text,
		"# HELP onramp_pods_enrolled_late_total Pods that ran before they were enrolled.\n"
		"# TYPE onramp_pods_enrolled_late_total counter\n"
		"onramp_pods_enrolled_late_total %lu\n"
		"# HELP ztunnel_connected Whether a ztunnel is connected.\n"
		"# TYPE ztunnel_connected gauge\n"
		"ztunnel_connected %d\n",
		pod_counts.late, peers_any());
}

/* Of those that are not enabled: how many for which reason. */
static void write_reasons(FILE *text)
{
	fputs("# HELP onramp_zds_pending Pods that are not enabled, by reason.\n"
	      "# TYPE onramp_zds_pending gauge\n",
	      text);
	for (const struct pod *pod = pods; pod; pod = pod->next) {
		const struct pod *first = pods;
		unsigned long count = 0;

		if (!*pod->reason)
			continue;
		while (strcmp(first->reason, pod->reason)) first = first->next;
		if (first != pod)
			continue; /* it was told with that one */
		for (const struct pod *other = pod; other; other = other->next)
			count += !strcmp(other->reason, pod->reason);
		fprintf(text, "onramp_zds_pending{reason=\"%s\"} %lu\n", pod->reason, count);
	}
}

static struct MHD_Response *fixed_response(char *text)
{
	return MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_PERSISTENT);
}

static struct MHD_Response *metrics_response(void)
{
	char *text = NULL, *bpf = bpf_metrics();
	size_t size = 0;
	FILE *file = open_memstream(&text, &size);

	if (file) {
		fputs(bpf ? bpf : "", file);
		write_counts(file);
		write_reasons(file);
		if (fclose(file))
			size = 0;
	}
	free(bpf);
	if (!text)
		return fixed_response("");
	return MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *data,
			      size_t *data_size, void **state)
{
	struct MHD_Response *response;
	unsigned int status = MHD_HTTP_OK;
	enum MHD_Result result;

	(void)context;
	(void)version;
	(void)data;
	(void)data_size;
	(void)state;
	if (!strcmp(url, "/metrics") && !strcmp(method, "GET")) {
		response = metrics_response();
	} else if (strcmp(url, "/healthz")) {
		status = MHD_HTTP_NOT_FOUND;
		response = fixed_response("/metrics or /healthz\n");
	} else if (peers_serve()) {
		response = fixed_response("ok\n");
	} else {
		status = MHD_HTTP_SERVICE_UNAVAILABLE;
		response = fixed_response("no socket\n");
	}
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4");
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

/*
 * What there is to do is done by http_tick(). But where there is no descriptor for who dials,
 * the library leaves it at that, and would be called again at once: who dials waits, and so do we.
 */
static void on_http(int fd)
{
	int spare = dup(fd);

	if (spare >= 0) {
		close(spare);
		return;
	}
	watch_rests(fd, true);
	rests_until = now() + REST;
}

/* In each round: it has work left that its descriptor does not tell of, and timeouts. */
void http_tick(void)
{
	MHD_UNSIGNED_LONG_LONG milliseconds;

	if (!server)
		return;
	if (rests_until && now() >= rests_until) {
		watch_rests(epoll, false);
		rests_until = 0;
	}
	if (rests_until)
		wake_in(REST);
	MHD_run(server);
	if (MHD_get_timeout(server, &milliseconds) == MHD_YES && milliseconds < 1000)
		wake_in(milliseconds);
}

/* [ADDR:]PORT, an IPv6 ADDR in brackets. False: it is none. */
static bool where_parse(const char *where, struct sockaddr_storage *address)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	const char *colon = strrchr(where, ':'), *port = colon ? colon + 1 : where;
	char ip[64] = "", *end;
	unsigned long number = strtoul(port, &end, 10);

	if (*end || end == port || !number || number > 65535)
		return false;
	*address = (struct sockaddr_storage){};
	if (!colon) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(number);
		return true;
	}
	snprintf(ip, sizeof(ip), "%.*s", (int)(colon - where), where);
	if (*ip == '[' && ip[strlen(ip) - 1] == ']') {
		ip[strlen(ip) - 1] = '\0';
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(number);
		return inet_pton(AF_INET6, ip + 1, &v6->sin6_addr) == 1;
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons(number);
	return inet_pton(AF_INET, ip, &v4->sin_addr) == 1;
}

static struct MHD_Daemon *serve(const struct sockaddr_storage *address, bool both)
{
	unsigned int flags = MHD_USE_EPOLL;

	if (address->ss_family == AF_INET6)
		flags |= MHD_USE_IPv6 | (both ? MHD_USE_DUAL_STACK : 0);
	return MHD_start_daemon(flags, 0, NULL, NULL, answer, NULL, MHD_OPTION_SOCK_ADDR, address,
				MHD_OPTION_CONNECTION_LIMIT, 64U,
				MHD_OPTION_PER_IP_CONNECTION_LIMIT, 8U,
				MHD_OPTION_CONNECTION_TIMEOUT, 10U, MHD_OPTION_END);
}

void http_open(const char *where)
{
	const union MHD_DaemonInfo *info;
	struct sockaddr_storage address;
	char v4_too[32];
	bool both = !strchr(where, ':');

	if (!where_parse(where, &address))
		die("%s: give [ADDR:]PORT", where);
	server = serve(&address, both);
	/* Where the kernel has no IPv6 at all. */
	snprintf(v4_too, sizeof(v4_too), "0.0.0.0:%s", where);
	if (!server && both && where_parse(v4_too, &address))
		server = serve(&address, false);
	if (!server)
		die("%s: cannot listen there: give -m", where);
	info = MHD_get_daemon_info(server, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		die("%s: no epoll", where);
	epoll = info->epoll_fd;
	watch(epoll, on_http);
}
