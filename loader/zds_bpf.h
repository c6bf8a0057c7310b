/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What zds_bpf.c and zds_hooks.c share: the maps that are pinned. */
#ifndef ZDS_BPF_H
#define ZDS_BPF_H

#include "zds.h"

/* zds_bpf.c */

/* A descriptor of each, from bpf_open() on. */
struct maps {
	int settings;
	int mesh_pods;
	int uid_netns;
	int ztunnels;
	int starts;
	int stats;
	int listeners;
	int kubelets;
};
extern struct maps maps;

/* False, and errno: they cannot be read. */
bool settings_read(struct settings *settings);

/* zds_hooks.c */

/* What one that was killed has attached, and not come to give its name, is attached no more. */
void hooks_clean(void);

/* The entry in `ztunnels` of a cgroup. */
int ztunnel_find(const char *cgroup, struct ztunnel *ztunnel);

#endif
