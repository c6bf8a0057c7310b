// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The pin directory. One of onramp's is known by its mode, which nobody else's has, or
 * by the map `cgroup_info_map`, where somebody changed that mode.
 */
#include "inbound.h"
#include "loader.h"
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <sys/file.h>

#define MODE 01700

static const char *directory;

const char *pin(const char *format, ...)
{
	char *below, *path;
	va_list args;

	va_start(args, format);
	if (vasprintf(&below, format, args) < 0 || asprintf(&path, "%s/%s", directory, below) < 0)
		die("no memory");
	va_end(args);
	return path;
}

void pins_lock(const char *pin_dir)
{
	const char *real = realpath(pin_dir, NULL); /* none: it is to be made */
	int parent;

	directory = real ? real : pin_dir;
	parent = open(dirname(strdup(directory)), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0 || flock(parent, LOCK_EX))
		die("%s: %m: give -p", pin_dir);
}

bool pins_are_there(void)
{
	struct stat own, above;

	if (!is_in(directory, BPF_FS_MAGIC))
		return false;
	if (!access(pin("maps/cgroup_info_map"), F_OK))
		return true;
	if (stat(directory, &own) || own.st_mode != (S_IFDIR | MODE))
		return false;
	/* A bpffs' own root may have that mode as well. */
	return stat(pin(".."), &above) || above.st_dev == own.st_dev;
}

void pins_make(void)
{
	if (!is_in(dirname(strdup(directory)), BPF_FS_MAGIC))
		die("%s: give a path in a bpffs (mount -t bpf)", directory);
	if (mkdir(directory, MODE))
		die("%s: %m: be root, and give -p, without dots", directory);
	undo_directory();
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	(void)status;
	(void)kind;
	(void)place;
	return remove(path);
}

void pins_remove(void)
{
	if (!access(pin("connect4"), F_OK))
		die("%s: bpftool has loaded it: see load-with-bpftool", directory);
	unlink(pin("links/connect4"));
	unlink(pin("links/connect6"));
	inbound_detach_all(directory);
	if (nftw(directory, remove_one, 1, FTW_DEPTH | FTW_PHYS)) /* 1: there may be no more */
		die("%s: %m", directory);
}

int pinned(const char *path)
{
	int object = bpf_obj_get(path);

	if (object < 0 && errno != ENOENT)
		die("%s: %m: see onramp-doctor", path);
	return object;
}

int pinned_map(const char *name)
{
	const char *path = pin("maps/%s", name);
	int map = bpf_obj_get(path);

	if (map < 0)
		die("%s: %m: onramp unload, then load again", path);
	return map;
}

__u64 pinned_number(const char *name)
{
	const char *path = pin("links/%s", name);
	FILE *file = fopen(path, "r");
	unsigned long long number = 0;

	if (!file || (fscanf(file, "%llu", &number) != 1 && ferror(file)))
		die("%s: %m: onramp unload, then load again", path);
	fclose(file);
	return number;
}
