// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: how a pod joins, leaves and ends, step by step.
 *
 *   joins, and has run nothing yet   its rule, and from there on it is refused; its netns;
 *                                    sk_lookup; Add; ack; enabled
 *   joins, and runs                  its netns; Add; ack; sk_lookup; its rule; enabled
 *   leaves                           OUT; sk_lookup off; Del; OUT gone
 *   ends                             sk_lookup off; Del; if it comes again, it joins
 *   is istio-cni's, and taken over   ztunnel listens there; sk_lookup; its rule; enabled
 *
 * Each step is done if it has not been done yet: whatever happens in between, the next
 * one goes on from there.
 */
#include "netns.h"
#include "zds_pods.h"
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/socket.h>

#define LINGER 1000 /* between a pod's leaving and its Del: what was under way arrives */

/* Told once: what keeps it from being enabled, or cannot be done while it is. */
static void say_why(struct pod *pod, const char *event, const char *reason)
{
	if (strcmp(reason, pod->reason))
		log_event(event, "uid=%s reason=\"%s\"", pod->text, reason);
	strcpy(pod->reason, reason);
}

/* For its status file. */
static void say_pending(struct pod *pod, const char *reason)
{
	char status[sizeof(pod->reason) + 16];

	if (pod->has_status && !strcmp(reason, pod->reason))
		return;
	say_why(pod, "pending", reason);
	snprintf(status, sizeof(status), "pending %s", reason);
	pod->has_status = status_write(pod->text, status);
}

void pend(struct pod *pod, const char *format, ...)
{
	char reason[sizeof(pod->reason)];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	if (pod->is_enabled)
		say_why(pod, "stays", reason); /* enabled, whatever has failed */
	else
		say_pending(pod, reason);
}

static void enable(struct pod *pod)
{
	if (!pod->is_enabled || *pod->reason || !pod->has_status)
		pod->has_status = status_write(pod->text, "enabled");
	if (!pod->is_enabled || *pod->reason)
		log_event("enabled", "uid=%s namespace=%s name=%s", pod->text, pod->told.namespace,
			  pod->told.name);
	if (!pod->is_enabled && pod->was_late)
		pod_counts.late++;
	pod->is_enabled = true;
	pod->was_late = false;
	*pod->reason = '\0';
}

static void fail(struct pod *pod, const char *what, int err)
{
	pend(pod, "%s: %s", what, strerror(-err));
}

/* The rule that it is to have. */
static __u32 rule_wanted(const struct pod *pod)
{
	__u32 bits = POD_ZDS_IN;

	if (pod->said.says_dns)
		bits |= pod->said.dns ? POD_DNS : POD_NO_DNS;
	return bits;
}

static void netns_close(struct pod *pod)
{
	if (pod->netns_fd >= 0)
		close(pod->netns_fd);
	pod->netns_fd = -1;
	pod->netns = 0;
	pod->is_led = false;
	pod->is_tellable = false;
}

/* To be told Del, or Add anew, so much later. */
static void untell(struct pod *pod, unsigned int later)
{
	for (int peer = 0; peer < PEERS; peer++) {
		pod->nacks[peer] = 0;
		pod->retry[peer] = now() + later;
		if (pod->by[peer] != UNTOLD)
			pod->by[peer] = TO_GO;
	}
}

/*
 * 0: the caller's netns has the address. By bind(), for a list of all could be made as long as
 * a pod likes, which everybody would wait for. (It can have any bound there, but in its own.)
 * An IPv6 address that is tentative yet is not there.
 */
static int bind_to(const union addr *ip)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_addr.s_addr = ip->word[3] };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	const struct sockaddr *address = (struct sockaddr *)&v6;
	socklen_t size = sizeof(v6);
	int fd, err = 0;

	memcpy(&v6.sin6_addr, ip, sizeof(*ip));
	if (addr_is_v4(ip)) {
		address = (struct sockaddr *)&v4;
		size = sizeof(v4);
	}
	fd = socket(address->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno == EAFNOSUPPORT ? -EADDRNOTAVAIL : -errno;
	if (bind(fd, address, size))
		err = -EADDRNOTAVAIL;
	close(fd);
	return err;
}

static int has_address(void *argument)
{
	const struct workload *said = argument;
	int err = -EADDRNOTAVAIL;

	for (int i = 0; i < said->ips && err == -EADDRNOTAVAIL; i++) err = bind_to(&said->ip[i]);
	return err;
}

/* Its netns, opened; and whether that is one that ztunnel may be told of. */
static bool netns_find(struct pod *pod, __u64 netns)
{
	int err;

	if (pod->netns != netns) {
		if (pod->netns && pod->is_enabled)
			log_event("another-netns", "uid=%s", pod->text);
		if (pod->netns) {
			pod->is_enabled = false;
			pod_to_the_end(pod); /* others first, however often it does that */
			for (int peer = 0; peer < PEERS; peer++) {
				pod->nacks[peer] = 0;
				if (pod->by[peer] != TO_GO && pod->by[peer] != UNTOLD)
					pod->by[peer] = KEPT; /* Add replaces it */
			}
		}
		netns_close(pod);
		pod->netns_fd = cgroup_netns(&pod->uid, netns, pod->pid);
		if (pod->netns_fd >= 0)
			pod->netns = netns;
		if (pod->netns && !bpf_is_led(pod->text, pod->netns_fd))
			pod->is_enabled = false;
	}
	if (pod->netns_fd == -EMFILE)
		fail(pod, "netns", pod->netns_fd);
	else if (pod->netns_fd < 0 && !pod->is_enabled)
		pend(pod, "no-process");
	if (pod->netns_fd < 0)
		return false;
	if (pod->is_tellable || pod->is_enabled || !pod->said.ips)
		return true;
	err = netns_visit(pod->netns_fd, has_address, &pod->said);
	if (err == -EADDRNOTAVAIL)
		pend(pod, "address");
	else if (err)
		fail(pod, "address", err);
	return !err;
}

/* What arrives at it goes to ztunnel. */
static bool lead(struct pod *pod)
{
	bool beside = files_take_over();
	int err;

	if (pod->is_led && pod->led_bypass == pod->said.bypass_inbound && pod->led_beside == beside)
		return true;
	err = pod->may_be_served ? bpf_note(pod->netns_fd) : 0;
	if (!err)
		err = bpf_lead(pod->text, pod->netns_fd, pod->said.bypass_inbound, beside);
	if (err) {
		fail(pod, "sk_lookup", err);
		return false;
	}
	pod->is_led = true;
	pod->may_be_served = false;
	pod->led_bypass = pod->said.bypass_inbound;
	pod->led_beside = beside;
	return true;
}

static bool rule(struct pod *pod)
{
	int dns = pod->said.says_dns && pod->said.dns;
	const char *cgroup = NULL;
	int err = bpf_rule_write(&pod->uid, rule_wanted(pod)); /* first: it refuses */

	if (dns && dns != pod->has_dns)
		cgroup = cgroup_of(&pod->uid);
	if (!err && dns != pod->has_dns && (cgroup || !dns)) {
		err = bpf_dns(pod->text, cgroup, dns);
		pod->has_dns = err ? -1 : dns;
	}
	if (err)
		fail(pod, "rule", err);
	return !err;
}

static void forget(struct pod *pod)
{
	if (pod->seen)
		files_read_again(); /* it has come as another meanwhile */
	netns_close(pod);
	unhang(pod);
	free(pod);
}

/* By who it is, to a ztunnel: until that has acked Del, or a snapshot without the pod. */
static bool may_be_known(const struct pod *pod)
{
	for (int peer = 0; peer < PEERS; peer++)
		if (pod->by[peer] != UNTOLD)
			return true;
	return *pod->told.name && !peers_any() && !pod_has_ended(pod);
}

/* It may be no more, afterwards. */
static void leave(struct pod *pod)
{
	int err;

	if (pod->is_said) { /* the first time */
		log_event("leaves", "uid=%s", pod->text);
		if (bpf_rule(&pod->uid) & POD_ZDS_IN)
			bpf_rule_write(&pod->uid, POD_ZDS_OUT);
		bpf_let_go(pod->text);
		untell(pod, LINGER);
		pod->is_said = false;
		pod->is_led = false;
		pod->is_tellable = false;
		pod->is_enabled = false;
		pod->was_late = true; /* if it is said again before it has left */
		pod->has_dns = -1;
		pod->has_status = false;
		*pod->reason = '\0';
		pod->drops = 0;
		pod->held_until = 0;
	}
	status_write(pod->text, NULL); /* whoever lets several go waits for that */
	if (may_be_known(pod))
		return;
	err = bpf_rule_write(&pod->uid, is_listed(OUTSIDE_LIST, pod->text) ? POD_ZDS_OUT : 0);
	if (err) {
		log_event("cannot-leave", "uid=%s error=\"%s\"", pod->text, strerror(-err));
		return; /* in a second, again */
	}
	bpf_let_go(pod->text);
	bpf_dns(pod->text, NULL, false);
	told_write(pod->text, NULL);
	log_event("left", "uid=%s", pod->text);
	forget(pod);
}

/* It is not there: it has not begun yet, or has ended. */
static void absent(struct pod *pod)
{
	if (pod->netns)
		log_event("ended", "uid=%s", pod->text);
	netns_close(pod);
	untell(pod, 0);
	pod->pid = 0;
	pod->is_enabled = false;
	pod->was_late = false; /* if it comes again, it has run nothing */
	pod->has_dns = -1;
	bpf_let_go(pod->text);
	if (!pod->seen && pod_has_ended(pod)) {
		pod->leaves = true; /* its file went before it did */
		pod->is_due = true;
		return;
	}
	if (rule(pod))
		pend(pod, "not-started");
}

/* Whether it is there, by its netns, and what was before. False: not to be known now. */
static bool look(struct pod *pod, __u64 *netns)
{
	pod->is_due = false;
	if (!bpf_netns_of(&pod->uid, netns))
		return false;
	pod->is_there = *netns;
	pod->was_there |= pod->is_there;
	if (!pod->is_known)
		know(pod, *netns);
	return true;
}

/* Goes on with a pod as far as it can. */
static void step(struct pod *pod)
{
	__u64 netns;

	if (!look(pod, &netns))
		return;
	if (pod->leaves) {
		leave(pod);
		return;
	}
	if (!pod->is_said && pod->is_bad && *pod->told.name) {
		pod->said = pod->told; /* its file was good when it joined */
		pod->is_said = true;
	}
	if (!pod->is_said) {
		if (pod->is_bad)
			pend(pod, "bad-file");
		return;
	}
	if (!netns) {
		absent(pod);
		return;
	}
	if (!*pod->said.name)
		return; /* nobody knows any more who it is: Keep, and as BPF has it */
	if (pod->netns && pod->netns != netns)
		pod->was_late = false; /* nothing has run in this one */
	if (!pod->was_late && !rule(pod))
		return;
	if (!netns_find(pod, netns))
		return;
	if (!pod->was_late && !lead(pod))
		return;
	pod->is_tellable = true;
	if (!pod->is_enabled && peer_newest() >= 0 && pod->by[peer_newest()] == ACKED) {
		if (!lead(pod) || !rule(pod))
			return;
		enable(pod);
	}
	if (*pod->told.name && workload_is_same_pod(&pod->told, &pod->said) &&
	    (!pod->has_told || !workload_is_same(&pod->told, &pod->said)))
		told_is_said(pod); /* for one who finds no file any more */
	if (*pod->told.name && !workload_is_same_pod(&pod->told, &pod->said))
		say_pending(pod, "identity-changed"); /* though it is enabled, by who it was */
	else if (pod->is_enabled)
		enable(pod);
	else if (peer_newest() < 0 || !pod->nacks[peer_newest()])
		pend(pod, "waits for ztunnel");
}

/*
 * While another server, istio-cni, is at work, and is being taken over: a pod that it has
 * told ztunnel of is captured beside its rules, which can go then. Others are its own.
 */
static void step_beside(struct pod *pod)
{
	__u64 netns;

	if (!look(pod, &netns))
		return;
	if (pod->leaves)
		leave(pod);
	else if (!netns)
		netns_close(pod);
	else if (pod->is_said && *pod->said.name && netns_find(pod, netns) &&
		 (pod->is_enabled || bpf_is_served(pod->netns_fd)) && lead(pod) && rule(pod)) {
		if (!*pod->told.name)
			told_is_said(pod);
		enable(pod);
	}
}

void pods_step(void)
{
	static __u64 all_at;
	struct pod *next;
	bool all = now() >= all_at, beside = peers_stand_by();

	if (beside && !files_take_over())
		return; /* another server is at work */
	if (all)
		all_at = now() + BEAT;
	for (struct pod *pod = pods; pod; pod = next) {
		next = pod->next;
		if (!all && !pod->is_due)
			continue;
		if (beside)
			step_beside(pod);
		else
			step(pod);
	}
}
