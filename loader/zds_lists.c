// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: the lists of pods in DIR: those that are ztunnels', and those outside. */
#include "zds_files.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

/* In a list of that path, whosever that is. */
static bool is_there(const char *path, const char *uid)
{
	char text[MAX_FILE + 1];
	const char *wrong;
	int dir;

	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return false;
	wrong = file_read(dir, uid, text);
	close(dir);
	return !wrong;
}

static void list_path(char path[PATH_MAX], const char *list)
{
	snprintf(path, PATH_MAX, "%s/%s", config.dir, list);
}

/* Whether there is one, which is root's alone; else that is told once. */
static bool is_good(const char *list, const char *path)
{
	static bool said_ztunnels, said_outside;
	bool *said = strcmp(list, OUTSIDE_LIST) ? &said_ztunnels : &said_outside;
	const char *unsafe = is_unsafe(path);
	bool is_bad = unsafe && !access(path, F_OK);

	if (is_bad && !*said)
		log_event("bad-list", "dir=%s error=\"%s\"", path, unsafe);
	*said = is_bad;
	return !unsafe;
}

void listed_each(const char *list, void (*act)(const union uid *uid))
{
	char path[PATH_MAX];
	struct dirent *entry;
	union uid uid;
	DIR *entries;

	list_path(path, list);
	entries = is_good(list, path) ? opendir(path) : NULL;
	if (!entries)
		return;
	while ((entry = readdir(entries)))
		if (uid_of_file(entry->d_name, &uid) && is_there(path, entry->d_name))
			act(&uid);
	closedir(entries);
}

bool is_list(const char *list)
{
	char path[PATH_MAX];

	list_path(path, list);
	return !is_unsafe(path);
}

bool is_listed(const char *list, const char *uid)
{
	char path[PATH_MAX];

	list_path(path, list);
	return is_there(path, uid) && !is_unsafe(path);
}
