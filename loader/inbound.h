/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * In-pod mode: what arrives at an enrolled pod is led to ztunnel by a copy of the
 * program inbound_netns in the pod's netns, which is pinned in PIN_DIR/inbound and so
 * is found again by whoever comes after, and by inbound_lookup, which `onramp load`
 * puts behind all of them. For onramp-zds.
 *
 * All functions that return an int: 0, or a negative errno with nothing changed.
 */
#ifndef ONRAMP_INBOUND_H
#define ONRAMP_INBOUND_H

#include <bpf/libbpf.h>
#include <stdbool.h>

/* What a copy is made of: the program as libbpf has relocated it, once. */
struct inbound_template {
	struct bpf_insn *insns;
	size_t insn_count;
	int constants_fd; /* of the map that each copy has one of its own of */
};

/* object must be loaded, with inbound_netns and the pinned maps, and stay open. */
int inbound_open(struct inbound_template *template, const struct bpf_object *object);

/*
 * Leads what arrives in the netns of that file descriptor to ztunnel. name is the pin's,
 * by which it is detached. bypass: the pod's inbound capture is off. beside: istio-cni's
 * rules may be in the netns. One that is there is replaced.
 */
int inbound_attach(const struct inbound_template *template, const char *pin_dir, const char *name,
		   int netns_fd, bool bypass, bool beside);

/* Sets *net to what the map `listeners` knows the netns by. */
int inbound_net(const char *pin_dir, int netns_fd, __u64 *net);

/*
 * Notes what ztunnels, known by now, have listened at in the netns since before. Takes
 * milliseconds: the kernel goes through all connections of the node.
 */
int inbound_note(const char *pin_dir, int netns_fd);

int inbound_detach(const char *pin_dir, const char *name);

/* Whether one is pinned under that name, and is of the netns of that file descriptor. */
bool inbound_is_attached(const char *pin_dir, const char *name, int netns_fd);

void inbound_detach_all(const char *pin_dir);

/*
 * Of the ids in `ztunnels`, for settings.ztunnels: what connect() keeps of cgroups, that
 * they are no ztunnel's, is void once it is another.
 */
__u32 ztunnels_sum(int map);

#endif
