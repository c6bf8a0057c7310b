// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp-zds: DIR, where it is said of pods. It is read as a whole whenever something has
 * happened to it. A file that was seen in this DIR and is gone, a moment later still, is
 * its pod's leaving; but if two or more are gone at once and none is left, or DIR is
 * another one, or cannot be read, nobody leaves.
 */
#include "zds_files.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define QUIET 20     /* after something has happened, before DIR is read */
#define MOMENT 300   /* so long a file must be gone, and no other have followed it */
#define LONGEST 5000 /* but others follow for ever where pods come and go */
#define AGAIN 1000   /* when it could not be read */
#define WRITTEN (IN_CLOSE_WRITE | IN_MOVED_TO)
#define ENDED (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)
#define EVENTS                                                                                     \
	(WRITTEN | IN_CREATE | IN_ATTRIB | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF |            \
	 IN_MOVE_SELF | IN_ONLYDIR)

static int events = -1;		 /* of inotify; -1: DIR is not watched */
static int dir_watched;		 /* its watch there */
static int outside_watched = -1; /* that of DIR/outside */
static bool outside_due = true;	 /* something has happened there */
static bool takes_over;		 /* DIR/.take-over was there as this round began */
static __u64 read_at = 1;	 /* when DIR is to be read; 0: it need not be */

/* Which DIR it is: inodes come again, the time that one was made does not. */
static struct dir {
	__u64 device;
	__u64 inode;
	__u64 made;
} dir_now;		 /* the one that was read last */
static bool is_same_dir; /* as the onramp-zds before had */
static bool is_noted;	 /* for the next one */
static unsigned int file_count;
static bool was_read;
static unsigned int reading; /* of DIR: the latest one's number */
static bool complained;	     /* DIR cannot be read, and that was told */

static void complain(struct pod *pod, const char *what)
{
	if (!pod->is_bad)
		log_event("bad-file", "uid=%s reason=\"%s\"", pod->text, what);
	pod->is_bad = true;
}

static void read_again_in(unsigned int milliseconds)
{
	if (!read_at || read_at > now() + milliseconds)
		read_at = now() + milliseconds;
}

void files_read_again(void)
{
	read_again_in(QUIET);
	wake_in(QUIET);
}

/* Of a name in DIR that is a UID. */
static void file_take(int dir, const union uid *uid, const char *name)
{
	char text[MAX_FILE + 1];
	struct workload said;
	const char *wrong = file_read(dir, name, text);
	struct pod *pod;

	if (wrong == not_there)
		return; /* any more: no pod is made for that */
	pod = pod_of(uid);
	if (pod)
		pod->seen = reading;
	if (!pod || wrong == not_now) {
		read_again_in(AGAIN);
		return;
	}
	pod->is_due = true;
	if (!wrong)
		wrong = workload_parse(text, &said);
	if (wrong) {
		complain(pod, wrong);
		return;
	}
	if (pod->leaves && *pod->told.name && !workload_is_same_pod(&pod->told, &said))
		return; /* first it leaves, as who it was */
	pod->is_bad = false;
	pod->is_said = true;
	pod->leaves = false;
	if (memcmp(pod->said.ip, said.ip, sizeof(said.ip)))
		pod->is_tellable = false; /* its netns was found to be that of others */
	pod->said = said;
}

void files_doubt(void)
{
	write_beside(".dir", NULL);
	is_noted = false;
	is_same_dir = false;
}

/* It was in this DIR, and is not. */
static bool is_gone(const struct pod *pod)
{
	return pod->seen && pod->seen != reading;
}

/* Those whose file was seen in this DIR, and is not there, nor was it a moment ago. */
static void gone_leave(unsigned int found)
{
	__u64 first = ~0ULL, last = 0;
	unsigned int living = 0;
	bool emptied;

	for (struct pod *pod = pods; pod; pod = pod->next) {
		if (!is_gone(pod)) {
			pod->gone_at = 0;
			continue;
		}
		if (!pod->gone_at)
			pod->gone_at = now();
		if (pod->gone_at < first)
			first = pod->gone_at;
		if (pod->gone_at > last)
			last = pod->gone_at;
		living += !pod_has_ended(pod);
	}
	if (!last)
		return;
	if (now() < last + MOMENT) {
		read_again_in(MOMENT);
		if (now() < first + LONGEST)
			return;
	}
	emptied = living > 1 && !found;
	if (emptied) {
		log_event("emptied", "dir=%s pods=%u result=\"nobody leaves\"", config.dir, living);
		files_doubt();
	}
	for (struct pod *pod = pods; pod; pod = pod->next) {
		if (!is_gone(pod) || (!emptied && now() < pod->gone_at + MOMENT))
			continue;
		pod->seen = 0;
		pod->leaves = !emptied || pod_has_ended(pod);
		pod->is_due = true;
	}
}

static void cannot_read(const char *why)
{
	if (!complained)
		log_event("unreadable", "dir=%s error=\"%s\" result=\"nobody leaves\"", config.dir,
			  why);
	complained = true;
	read_again_in(AGAIN);
}

/* Zeros: it cannot be told. */
static struct dir dir_of(const char *path)
{
	struct statx status = {};

	if (statx(AT_FDCWD, path, 0, STATX_INO | STATX_BTIME, &status))
		return (struct dir){};
	return (struct dir){
		.device = (__u64)status.stx_dev_major << 32 | status.stx_dev_minor,
		.inode = status.stx_ino,
		.made = status.stx_btime.tv_sec * 1000000000ULL + status.stx_btime.tv_nsec,
	};
}

static bool is_another(const struct dir *dir)
{
	return memcmp(dir, &dir_now, sizeof(*dir));
}

#define DIR_TEXT 64

static void dir_text(const struct dir *dir, char text[DIR_TEXT])
{
	snprintf(text, DIR_TEXT, "%llx %llx %llx\n", dir->device, dir->inode, dir->made);
}

/* For the next onramp-zds: all pods' files were in this one, so that who is not has left. */
static void dir_note(void)
{
	char text[DIR_TEXT];

	for (const struct pod *pod = pods; pod; pod = pod->next)
		if (pod->is_said && !pod->seen)
			return;
	dir_text(&dir_now, text);
	is_noted = write_beside(".dir", text);
}

/* Whose files are not in this one has not left by that. */
static void dir_take(const struct dir *dir)
{
	char text[DIR_TEXT], before[MAX_FILE + 1];

	dir_text(dir, text);
	is_same_dir = read_beside(".dir", before) && !strcmp(text, before);
	is_noted = is_same_dir;
	if (dir_now.inode)
		log_event("replaced", "dir=%s result=\"nobody leaves\"", config.dir);
	dir_now = *dir;
	for (struct pod *pod = pods; pod; pod = pod->next) pod->seen = 0;
}

/* A file is new, or has been written: it is read at once, for its pod may begin any moment. */
static void on_file(const char *name)
{
	union uid uid;
	int dir;

	if (!uid_of_file(name, &uid) || complained)
		return;
	dir = open(config.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return;
	file_take(dir, &uid, name);
	close(dir);
}

static void on_events(int fd)
{
	char buffer[4096] __attribute__((aligned(8)));
	const struct inotify_event *event;
	ssize_t got;

	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		for (char *at = buffer; at < buffer + got; at += sizeof(*event) + event->len) {
			event = (const struct inotify_event *)at;
			if (event->wd == dir_watched && event->len && event->mask & WRITTEN)
				on_file(event->name);
			if (event->wd == outside_watched) {
				outside_due = true;
				if (event->mask & IN_IGNORED)
					outside_watched = -1; /* it is gone */
			}
			if (event->mask & IN_Q_OVERFLOW)
				log_event("overflow", "dir=%s result=\"all is read\"", config.dir);
			if (event->wd == dir_watched && event->mask & ENDED) {
				dir_watched = -1;
				dir_now.device = ~0ULL; /* what comes is another, by any number */
			}
		}
	read_again_in(QUIET); /* even if it overflowed: all is read */
}

/* It may come later than we do. */
static void outside_watch(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/" OUTSIDE_LIST, config.dir);
	outside_watched = inotify_add_watch(events, path, WRITTEN);
	outside_due |= outside_watched >= 0;
}

/* Without a watch, as where a user has no more of them, DIR is read each second. */
static void dir_watch(void)
{
	if (events < 0) {
		events = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
		if (events >= 0)
			watch(events, on_events);
	}
	dir_watched = events < 0 ? -1 : inotify_add_watch(events, config.dir, EVENTS);
	outside_watch();
}

/* Reads all of DIR. False: not to its end. */
static bool dir_read(int dir)
{
	unsigned int found = 0;
	DIR *entries = fdopendir(dir);
	struct dirent *entry;
	union uid uid;
	int err;

	if (!entries) {
		err = errno;
		close(dir);
		errno = err;
		return false;
	}
	reading++;
	for (errno = 0; (entry = readdir(entries)); errno = 0) {
		if (strchr(entry->d_name, '.') || !strcmp(entry->d_name, ZTUNNELS_LIST) ||
		    !strcmp(entry->d_name, OUTSIDE_LIST))
			continue;
		if (!uid_of_file(entry->d_name, &uid)) {
			if (config.verbose)
				log_event("ignored", "file=%s", entry->d_name);
			continue;
		}
		found++;
		file_take(dir, &uid, entry->d_name);
	}
	err = errno;
	if (!err) {
		gone_leave(found);
		file_count = found;
	}
	closedir(entries);
	errno = err;
	return !err;
}

void files_tick(void)
{
	struct dir found = dir_of(config.dir);
	char take_over[PATH_MAX];
	const char *unsafe;
	int dir;

	snprintf(take_over, sizeof(take_over), "%s/.take-over", config.dir);
	takes_over = !access(take_over, F_OK) && !is_unsafe(config.dir);
	/* Who stands by does not know all pods: those from before are recalled when it serves. */
	if (was_read && !is_noted && peers_serve() && !peers_stand_by())
		dir_note();
	if (read_at && read_at > now())
		wake_in(read_at - now());
	if (complained && now() < read_at)
		return;
	if (!is_another(&found) && (!read_at || now() < read_at))
		return;
	read_at = 0;
	unsafe = is_unsafe(config.dir);
	if (unsafe) {
		cannot_read(unsafe);
		return;
	}
	if (is_another(&found)) {
		dir_watched = -1;
		dir_take(&found);
	}
	if (dir_watched < 0)
		dir_watch();
	dir = open(config.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || !dir_read(dir)) {
		cannot_read(strerror(errno));
		return;
	}
	if (dir_watched < 0)
		read_again_in(AGAIN);
	if (read_at)
		wake_in(read_at > now() ? read_at - now() : 0);
	if (complained)
		log_event("readable", "dir=%s", config.dir);
	complained = false;
	was_read = true;
}

unsigned int files_count(void)
{
	return file_count;
}

bool files_are_of_same_dir(void)
{
	return is_same_dir;
}

void files_open(void)
{
	const char *unsafe = is_unsafe(config.dir);

	if (unsafe)
		die("%s: %s: give a directory that is root's alone", config.dir, unsafe);
	if (mkdir(config.status_dir, 0755) && errno != EEXIST)
		die("%s: %s", config.status_dir, strerror(errno));
	unsafe = is_unsafe(config.status_dir);
	if (unsafe)
		die("%s: %s: give a directory that is root's alone", config.status_dir, unsafe);
	chmod(config.status_dir, 0755);
	files_tick();
	if (!was_read)
		die("%s: cannot be read", config.dir);
}

bool files_outside_due(void)
{
	bool due;

	if (outside_watched < 0)
		outside_watch();
	due = outside_due;
	outside_due = false;
	return due;
}

bool files_take_over(void)
{
	return takes_over;
}
