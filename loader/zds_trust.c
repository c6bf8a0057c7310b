// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: whether only root may have written a file, or may write to a directory. */
#include "zds_files.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

const char not_there[] = "is not there";
const char not_now[] = "cannot be read now";

const char *file_read(int dir, const char *name, char text[MAX_FILE + 1])
{
	int file = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	const char *wrong = NULL;
	struct stat status;
	ssize_t got;

	if (file < 0 && (errno == ELOOP || errno == ENXIO))
		return "no regular file";
	if (file < 0 && errno == ENOENT)
		return not_there;
	if (file < 0)
		return not_now;
	if (fstat(file, &status) || !S_ISREG(status.st_mode))
		wrong = "no regular file";
	else if (status.st_uid)
		wrong = "not root's";
	else if ((status.st_mode & 07777) != 0600)
		wrong = "mode is not 0600";
	else if (status.st_size > MAX_FILE)
		wrong = "over 4 KiB";
	got = wrong ? 0 : read(file, text, MAX_FILE);
	close(file);
	if (got < 0)
		return not_now;
	text[got] = '\0';
	if (!wrong && strlen(text) != (size_t)got)
		wrong = "has a zero byte";
	return wrong;
}

/* Of a directory and those above it by this name, which is changed. NULL, or what is wrong. */
static const char *is_unsafe_here(char *path)
{
	static char wrong[PATH_MAX + 64];
	struct stat status;
	char *slash;

	for (;;) {
		if (stat(*path ? path : "/", &status))
			return strerror(errno);
		if (status.st_uid || status.st_mode & 022) {
			snprintf(wrong, sizeof(wrong), "%s: others than root may write there",
				 *path ? path : "/");
			return wrong;
		}
		slash = strrchr(path, '/');
		if (!slash)
			return NULL;
		*slash = '\0';
	}
}

const char *is_unsafe(const char *path)
{
	char given[PATH_MAX], real[PATH_MAX];
	const char *wrong;

	if (!realpath(path, real))
		return strerror(errno);
	snprintf(given, sizeof(given), "%s", path);
	wrong = is_unsafe_here(given);
	return wrong ? wrong : is_unsafe_here(real);
}
