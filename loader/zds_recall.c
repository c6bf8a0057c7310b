// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: pods of which no file says that they join: those that an onramp-zds before
 * this one knew, and those that stay outside.
 */
#include "zds_pods.h"

void know(struct pod *pod, __u64 netns)
{
	bool was_enabled = status_is_enabled(pod->text);
	__u32 rule = bpf_rule(&pod->uid);
	bool has_rule = rule & POD_ZDS_IN, is_other;

	if (!told_read(pod->text, &pod->told))
		pod->told = (struct workload){};
	is_other = *pod->told.name && pod->is_said && !workload_is_same_pod(&pod->told, &pod->said);
	if (is_other && rule & POD_ZDS_OUT)
		pod->leaves = true; /* as who it was it had not left yet: first that */
	/* After a reboot it was enabled, and the maps are empty: that is not late either. */
	pod->was_late = !was_enabled && !has_rule && netns;
	pod->is_enabled = was_enabled && has_rule;
	pod->has_status = was_enabled;
	pod->may_be_served = netns; /* else none can have been told of it but by us */
	pod->is_known = true;
}

static void put_outside(const union uid *uid)
{
	if (!pod_find(uid) && !bpf_rule(uid))
		bpf_rule_write(uid, POD_ZDS_OUT);
}

/* One that stays out, or did. */
static bool is_outside(const union uid *uid)
{
	char text[UID_STRLEN];
	struct workload told;

	uid_write(uid, text);
	return bpf_rule(uid) == POD_ZDS_OUT && !pod_find(uid) && !told_read(text, &told);
}

static void take_outside_back(const union uid *uid)
{
	char text[UID_STRLEN];
	__u64 netns;

	uid_write(uid, text);
	if (is_outside(uid) && bpf_netns_of(uid, &netns) && !netns &&
	    !is_listed(OUTSIDE_LIST, text))
		bpf_rule_write(uid, 0);
}

void outside_step(void)
{
	static __u64 all_at;
	bool all = now() >= all_at;

	if (!files_outside_due() && !all)
		return;
	listed_each(OUTSIDE_LIST, put_outside);
	if (!all)
		return;
	all_at = now() + BEAT;
	bpf_each(take_outside_back);
}

static void recall(const union uid *uid)
{
	struct pod *pod = is_outside(uid) ? NULL : pod_of(uid);
	__u64 netns;

	if (!pod || pod->is_said || pod->is_bad || pod->leaves || !bpf_netns_of(uid, &netns))
		return;
	know(pod, netns);
	pod->said = pod->told;
	pod->is_said = true;
	pod->is_due = true;
	pod->leaves = pod_has_ended(pod) || bpf_rule(uid) & POD_ZDS_OUT;
	pod->is_missing = !pod->leaves && !pod->seen; /* seen: it cannot be opened now */
}

/*
 * Those whose file is not there: it went while no onramp-zds was. They have left; but if
 * DIR is another one, or several went and none is left, nobody has, as when it happens
 * before our eyes.
 */
static void missing_leave(void)
{
	unsigned int missing = 0;
	bool left;

	for (struct pod *pod = pods; pod; pod = pod->next) missing += pod->is_missing;
	left = files_are_of_same_dir() && (missing == 1 || files_count());
	if (missing && !left) {
		log_event("missing", "dir=%s pods=%u result=\"nobody leaves\"", config.dir,
			  missing);
		files_doubt();
	}
	for (struct pod *pod = pods; pod; pod = pod->next) {
		pod->leaves |= pod->is_missing && left;
		pod->is_missing = false;
	}
}

void pods_recall(void)
{
	status_each(recall);
	bpf_each(recall);
	missing_leave();
	for (struct pod *pod = pods; pod; pod = pod->next) pod->is_due = true;
}
