// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The pin directory. One of onramp's is known by its mode, which nobody else's has, or
 * by the map `settings`, where somebody changed that mode.
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
	int parent = open(dirname(strdup(pin_dir)), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	directory = pin_dir;
	if (parent < 0 || flock(parent, LOCK_EX))
		die("%s: %m: give -p", pin_dir);
}

bool pins_are_there(void)
{
	struct stat own, above;

	if (!access(pin("maps/settings"), F_OK))
		return true;
	if (stat(directory, &own) || own.st_mode != (S_IFDIR | MODE) ||
	    !is_in(directory, BPF_FS_MAGIC))
		return false;
	/* A bpffs' own root may have that mode as well. */
	return stat(pin(".."), &above) || above.st_dev == own.st_dev;
}

void pins_make(void)
{
	if (mkdir(directory, MODE))
		die("%s: %m: give -p", directory);
	undo_directory();
	if (!is_in(directory, BPF_FS_MAGIC))
		die("%s: give a path in a bpffs (mount -t bpf)", directory);
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
	unlink(pin("links/connect4"));
	unlink(pin("links/connect6"));
	inbound_detach_all(directory);
	if (nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS))
		die("%s: %m", directory);
}

int pinned_map(const char *name)
{
	const char *path = pin("maps/%s", name);
	int map = bpf_obj_get(path);

	if (map < 0)
		die("%s: %m", path);
	return map;
}

__u64 pinned_number(const char *name)
{
	const char *path = pin("links/%s", name);
	FILE *file = fopen(path, "r");
	unsigned long long number = 0;

	if (!file || (fscanf(file, "%llu", &number) != 1 && ferror(file)))
		die("%s: %m", path);
	fclose(file);
	return number;
}
