// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The kubelet's cgroups, so that its probes arrive at what they are for. */
#include "kubelets.h"
#include "loader.h"

static bool has(const struct kubelets *kubelets, __u64 id)
{
	for (int i = 0; i < kubelets->count; i++)
		if (kubelets->id[i] == id)
			return true;
	return false;
}

static void add(struct kubelets *kubelets, __u64 id, const char *path)
{
	if (has(kubelets, id) || kubelets->count == WORDS)
		return;
	kubelets->id[kubelets->count] = id;
	kubelets->path[kubelets->count] = path;
	kubelets->count++;
}

static struct kubelets seen;

static void see(const char *path)
{
	add(&seen, cgroup_id(path), strdup(path));
}

struct kubelets kubelets_seen(const struct options *options)
{
	const char *netns = options->given['n'] ? options->given['n'] : "/proc/1/ns/net";
	const char *root = cgroup_root(options->given['c']);
	struct stat status;

	if (!root)
		die("%s: %m", options->given['c']);
	for (int i = 0; i < options->kubelet_cgroups.count; i++) {
		const char *path = options->kubelet_cgroups.word[i];

		see(strcmp(path, "/") ? path : root);
	}
	if (!options->given['k'] && !stat(netns, &status))
		kubelets_search(root, status.st_ino, see);
	return seen;
}

void kubelets_write(const struct kubelets *kubelets)
{
	int map = pinned_map("kubelets");
	struct kubelets there = {};
	__u64 id, *last = NULL;
	__u32 one = 1;

	for (; !bpf_map_get_next_key(map, last, &id); last = &id) add(&there, id, NULL);
	for (int i = 0; i < there.count; i++)
		if (!has(kubelets, there.id[i]))
			entry_write("-k", map, &there.id[i], &one, NULL);
	for (int i = 0; i < kubelets->count; i++)
		if (!has(&there, kubelets->id[i]))
			entry_write("-k", map, &kubelets->id[i], NULL, &one);
}
