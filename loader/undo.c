// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What was there before, newest first, to be put back if the loader fails. */
#include "loader.h"
#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>

static int spare = -1; /* to read a directory by, where there are no more descriptors */

static struct change {
	struct change *earlier;
	enum { DIRECTORY, ENTRY, PIN, PROGRAM } kind;
	int fd;		  /* of the map; or of the link, -1 for none */
	int program;	  /* descriptor; -1: not known */
	const char *path; /* of the pin */
	bool existed;	  /* the entry */
	char key[sizeof(struct prefix)];
	char value[sizeof(struct settings)];
} * latest;

static struct change *remember(int kind, int fd)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change)
		die("no memory");
	change->kind = kind;
	change->fd = fd;
	change->earlier = latest;
	latest = change;
	return change;
}

void undo_directory(void)
{
	spare = open("/", O_PATH | O_CLOEXEC);
	remember(DIRECTORY, -1);
}

void undo_pin(const char *path)
{
	remember(PIN, pinned(path))->path = path;
}

void undo_program(int link, int program)
{
	remember(PROGRAM, link)->program = program;
}

void entry_write(const char *text, int map, const void *key, const void *before, const void *after)
{
	struct change *change = remember(ENTRY, map);
	struct bpf_map_info info = {};
	__u32 size = sizeof(info);
	int failed;

	bpf_obj_get_info_by_fd(map, &info, &size);
	if (info.key_size > sizeof(change->key) || info.value_size > sizeof(change->value))
		die("%s: %s is another release's: onramp unload, then load", text, info.name);
	memcpy(change->key, key, info.key_size);
	change->existed = before;
	if (before)
		memcpy(change->value, before, info.value_size);
	if (after)
		failed = bpf_map_update_elem(map, key, after, BPF_ANY);
	else
		failed = bpf_map_delete_elem(map, key);
	if (failed && after && (errno == ENOSPC || errno == E2BIG))
		die("%s: %s is full: onramp forget what is not needed", text, info.name);
	if (failed && (after || errno != ENOENT))
		die("%s: cannot change %s: %m", text, info.name);
}

static void undo(const struct change *change)
{
	switch (change->kind) {
	case DIRECTORY:
		pins_remove();
		break;
	case ENTRY:
		if (change->existed)
			bpf_map_update_elem(change->fd, change->key, change->value, BPF_ANY);
		else
			bpf_map_delete_elem(change->fd, change->key);
		break;
	case PIN:
		unlink(change->path);
		if (change->fd >= 0)
			bpf_obj_pin(change->fd, change->path);
		break;
	case PROGRAM:
		if (change->program >= 0)
			bpf_link_update(change->fd, change->program, NULL);
		break;
	}
}

void die(const char *format, ...)
{
	struct change *change = latest;
	char *line = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&line, format, args) < 0)
		line = strerror(ENOMEM);
	va_end(args);
	for (char *at = line; *at; at++)
		if (iscntrl(*at))
			*at = '?'; /* one line, whatever it is about */
	warnx("%s", line);
	close(spare);
	latest = NULL; /* once only, whatever fails in it */
	for (; change; change = change->earlier) undo(change);
	exit(1);
}
