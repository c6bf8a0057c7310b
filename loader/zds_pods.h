/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What zds_pods.c, zds_join.c and zds_recall.c share. */
#ifndef ZDS_PODS_H
#define ZDS_PODS_H

#include "zds.h"

/* zds_pods.c */

/* NULL: it is none of ours. */
struct pod *pod_find(const union uid *uid);

/* Out of the list; gives the place where it was. */
struct pod **unhang(struct pod *pod);

void pod_to_the_end(struct pod *pod);

/* zds_join.c */

/* Why it is not enabled, or stays so: told once, and for the status file of who is not. */
void pend(struct pod *pod, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* zds_recall.c */

/* What was before this onramp-zds. netns: its own, as BPF has it. */
void know(struct pod *pod, __u64 netns);

#endif
