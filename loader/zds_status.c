// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: the files that it keeps itself, in DIR/../status: how each pod is, what
 * ztunnel was told of it, and which DIR that was by.
 */
#include "zds_files.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

bool write_beside(const char *name, const char *text)
{
	char new[PATH_MAX], path[PATH_MAX];
	bool written;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", config.status_dir, name);
	snprintf(new, sizeof(new), "%s/.new", config.status_dir);
	if (!text) {
		unlink(path);
		return true;
	}
	unlink(new); /* whatever it is: to open it may take for ever */
	file = fopen(new, "wxe");
	if (!file)
		return false;
	written = !fchmod(fileno(file), 0644) && fputs(text, file) >= 0;
	if (fclose(file))
		written = false;
	return written && !rename(new, path);
}

bool read_beside(const char *name, char text[MAX_FILE + 1])
{
	char path[PATH_MAX];
	ssize_t got;
	int file;

	snprintf(path, sizeof(path), "%s/%s", config.status_dir, name);
	file = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (file < 0)
		return false;
	got = read(file, text, MAX_FILE);
	close(file);
	text[got > 0 ? got : 0] = '\0';
	return got > 0;
}

/* A neighbour of the status files, in the form of DIR's, which no one takes for one. */
static void told_name(const char *uid, char name[UID_STRLEN + 1])
{
	snprintf(name, UID_STRLEN + 1, ".%s", uid);
}

bool status_write(const char *uid, const char *text)
{
	static bool said; /* that it cannot be done */
	bool written;
	char line[256];

	snprintf(line, sizeof(line), "%s\n", text ? text : "");
	written = write_beside(uid, text ? line : NULL);
	if (!written && !said)
		log_event("cannot-write", "dir=%s error=\"%s\"", config.status_dir,
			  strerror(errno));
	said = !written;
	return written;
}

bool told_write(const char *uid, const struct workload *workload)
{
	static const char *const dns[] = { "", "dns=false\n", "dns=true\n" };
	char text[MAX_FILE], name[UID_STRLEN + 1];

	told_name(uid, name);
	if (workload)
		snprintf(text, sizeof(text),
			 "namespace=%s\nname=%s\nservice_account=%s\nbypass_inbound=%s\n%s",
			 workload->namespace, workload->name, workload->service_account,
			 workload->bypass_inbound ? "true" : "false", dns[dns_of(workload)]);
	return write_beside(name, workload ? text : NULL);
}

bool told_read(const char *uid, struct workload *workload)
{
	char text[MAX_FILE + 1], name[UID_STRLEN + 1];

	told_name(uid, name);
	return read_beside(name, text) && !workload_parse(text, workload);
}

bool status_is_enabled(const char *uid)
{
	char text[MAX_FILE + 1];

	return read_beside(uid, text) && !strcmp(text, "enabled\n");
}

void status_each(void (*act)(const union uid *uid))
{
	uid_each_file(config.status_dir, act);
}
