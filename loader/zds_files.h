/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What zds_files.c, zds_trust.c, zds_lists.c and zds_status.c share. */
#ifndef ZDS_FILES_H
#define ZDS_FILES_H

#include "zds.h"

/* zds_trust.c */

/*
 * Reads a file that only root may have written. NULL, or what is wrong with it: not_there; or
 * not_now, if that may be another by and by.
 */
const char *file_read(int dir, const char *name, char text[MAX_FILE + 1]);
extern const char not_there[];
extern const char not_now[];

/*
 * Only root may write to the directory and those above it, nor lead it elsewhere by a link.
 * NULL, or what is wrong.
 */
const char *is_unsafe(const char *path);

/* zds_status.c */

/* A file beside the status files, in one step or not at all. NULL: removed. */
bool write_beside(const char *name, const char *text);

/* Reads what write_beside() has written. */
bool read_beside(const char *name, char text[MAX_FILE + 1]);

#endif
