// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: the lists of pods in DIR: those that are ztunnels', and those outside. */
#include "zds_files.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

void listed_each(const char *list, void (*act)(const union uid *uid))
{
	char path[PATH_MAX];
	struct dirent *entry;
	union uid uid;
	DIR *entries;

	snprintf(path, sizeof(path), "%s/%s", config.dir, list);
	entries = complained ? NULL : opendir(path);
	if (!entries)
		return;
	while ((entry = readdir(entries)))
		if (uid_of_file(entry->d_name, &uid) && is_listed(list, entry->d_name))
			act(&uid);
	closedir(entries);
}

bool is_listed(const char *list, const char *uid)
{
	char path[PATH_MAX], text[MAX_FILE + 1];
	const char *wrong;
	int dir;

	snprintf(path, sizeof(path), "%s/%s", config.dir, list);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return false;
	wrong = file_read(dir, uid, text);
	close(dir);
	return !wrong;
}
