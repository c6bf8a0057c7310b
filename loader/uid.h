/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* UIDs of pods, as people and kubelets write them. */
#ifndef ONRAMP_UID_H
#define ONRAMP_UID_H

#include "onramp.h"
#include <stdbool.h>

#define UID_STRLEN 37 /* 8-4-4-4-12 and the end */

/*
 * Reads 32 hexadecimal digits, the separator ('\0': nothing) between groups of 8, 4, 4,
 * 4 and 12. Gives what follows, or NULL: it is no UID.
 */
const char *uid_parse(const char *text, char separator, union uid *uid);

void uid_write(const union uid *uid, char text[UID_STRLEN]);

/* Whether a name is a UID in its one form: a file's in onramp-zds' directory, a pin's. */
bool uid_of_file(const char *name, union uid *uid);

/* Calls act for each file of such a name there; a directory that cannot be read has none. */
void uid_each_file(const char *directory, void (*act)(const union uid *uid));

/* Whether a cgroup's name is a pod's: as bpf/uids.h has it. */
bool uid_of_cgroup(const char *name, union uid *uid);

#endif
