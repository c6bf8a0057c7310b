// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "uid.h"
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

static const char hexadecimal[] = "0123456789abcdef";

const char *uid_parse(const char *text, char separator, union uid *uid)
{
	for (int digit = 0; digit < 32; digit++, text++) {
		bool begins_group = digit == 8 || digit == 12 || digit == 16 || digit == 20;
		const char *found;

		if (separator && begins_group && *text++ != separator)
			return NULL;
		found = *text ? strchr(hexadecimal, tolower(*text)) : NULL;
		if (!found)
			return NULL;
		uid->byte[digit / 2] <<= 4;
		uid->byte[digit / 2] |= found - hexadecimal;
	}
	return text;
}

void uid_write(const union uid *uid, char text[UID_STRLEN])
{
	for (int byte = 0; byte < 16; byte++) {
		bool begins_group = byte == 4 || byte == 6 || byte == 8 || byte == 10;

		text += sprintf(text, begins_group ? "-%02x" : "%02x", uid->byte[byte]);
	}
}

/* Whether text is a UID, as a kubelet writes it, and then exactly what follows. */
static bool is_uid(const char *text, char separator, const char *follows, union uid *uid)
{
	const char *end = uid_parse(text, separator, uid);

	for (const char *digit = text; end && digit < end; digit++)
		if (isupper(*digit))
			return false;
	return end && !strcmp(end, follows);
}

bool uid_of_file(const char *name, union uid *uid)
{
	return is_uid(name, '-', "", uid);
}

/* Whether a name is something-podUID.slice, with so many characters for the UID. */
static bool is_slice(const char *name, size_t length, char separator, union uid *uid)
{
	size_t end = length + strlen(".slice"), all = strlen(name);
	const char *digits = name + all - end;

	return all >= strlen("-pod") + end && !strncmp(digits - 4, "-pod", 4) &&
	       is_uid(digits, separator, ".slice", uid);
}

bool uid_of_cgroup(const char *name, union uid *uid)
{
	if (!strncmp(name, "pod", 3) &&
	    (is_uid(name + 3, '-', "", uid) || is_uid(name + 3, 0, "", uid)))
		return true;
	return is_slice(name, UID_STRLEN - 1, '_', uid) || is_slice(name, 32, 0, uid);
}

void uid_each_file(const char *directory, void (*act)(const union uid *uid))
{
	DIR *entries = opendir(directory);
	struct dirent *entry;
	union uid uid;

	if (!entries)
		return;
	while ((entry = readdir(entries)))
		if (uid_of_file(entry->d_name, &uid))
			act(&uid);
	closedir(entries);
}
