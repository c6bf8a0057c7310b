/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The loader's parts. None of these functions returns a failure: whatever goes wrong, a
 * mistake of the user's or a refusal of the kernel's, ends the loader by die(). Addresses
 * are as onramp.h has them, 16 bytes in network byte order; all else is in host byte
 * order. Paths that are returned are never freed, for the loader ends soon.
 */
#ifndef LOADER_H
#define LOADER_H

#include "addr.h"
#include "onramp.h"
#include "uid.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <err.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* options.c: what was asked for */

enum command { LOAD, ENROLL, EXCLUDE, FORGET, RULES, UNLOAD, COMMANDS }; /* as in usage.txt */

/* A rule to write, or to forget. */
struct wish {
	const char *text; /* as it was given */
	__u32 rule;	  /* enum rule; 0: forget it */
	bool of_pod;	  /* by uid; else by prefix */
	struct prefix prefix;
	union uid uid;
};

#define WORDS 16 /* as many as `kubelets` holds */

struct words {
	const char *word[WORDS];
	int count;
};

struct options {
	enum command command;
	const char *given[128];	      /* by an option's letter: its value or ""; NULL: not given */
	struct words ztunnels;	      /* -z or ZTUNNEL_IP; none: in-pod mode */
	struct words ztunnel_cgroups; /* -t */
	struct words kubelet_cgroups; /* -k */
	struct wish *wishes;	      /* -e, -x, -b, and what stands after the options */
	int wish_count;
};

/* Finds all mistakes that can be seen in the words. Help and version end the loader. */
struct options options_read(int argc, char **argv);

/* Whether path is in a file system of this magic number (linux/magic.h). */
bool is_in(const char *path, __u32 magic);

/* By what the kernel calls a cgroup2 directory, and a netns: an error where it is none. */
__u64 cgroup_id(const char *path);
__u32 netns_inode(const char *path);

/* pins.c: where all is pinned */

/* Waits until no other loader is at work in the directory that holds the pin directory. */
void pins_lock(const char *pin_dir);

/* Whether the pin directory is there, and onramp's. */
bool pins_are_there(void);

/* Makes it; if the loader fails it goes, with all that is in it by then. */
void pins_make(void);

/* Removes it, connect() first, and so all that onramp does. */
void pins_remove(void);

/* The path of what the format says, in the pin directory. */
const char *pin(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A descriptor of what is pinned there; -1: nothing is. */
int pinned(const char *path);

/* A descriptor of maps/NAME. */
int pinned_map(const char *name);

/* Runs the iterator links/NAME. Gives the number that it prints, 0 for nothing. */
__u64 pinned_number(const char *name);

/* undo.c: what was there before */

/* One line on standard error; all that was changed is put back; exit status 1. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * Writes an entry whose value was `before`; NULL: there was, or is to be, none. The
 * message of a refusal begins with text.
 */
void entry_write(const char *text, int map, const void *key, const void *before, const void *after);

/*
 * About to come: the pin directory; a pin in the place of what is there; a link's new
 * program in the place of program (-1: not known, and not to be put back).
 */
void undo_directory(void);
void undo_pin(const char *path);
void undo_program(int link, int program);

/* rules.c */

/* Reads a CIDR, an address or a UID. rule: as in struct wish. */
struct wish wish_parse(const char *text, __u32 rule);

/* Writes them to mesh_rules, bypass_rules and mesh_pods. */
void rules_write(const struct wish *wishes, int count);

/* The pods that have a file there join, by onramp-zds' word: it goes on from there. */
void workloads_join(const char *directory);

/* Prints all, a line each: by address, then by UID. */
void rules_list(void);

/* ztunnel.c */

struct ztunnels {
	const char *cgroup[ZTUNNELS]; /* by place: the one that -t gives; NULL: none */
	bool taken[ZTUNNELS];	      /* by place: some ztunnel has it */
	bool by_cgroup;		      /* one has */
	bool own_netns;		      /* known by the loader's own netns */
	bool listens;		      /* already, as far as that can be known at first */
	bool waits;		      /* takes over when it listens */
	bool everywhere;	      /* its programs are for all of -c */
	__u64 newest;		      /* id of the cgroup in which it will; 0: none was given */
};

/* Reads the addresses of -z: at most one of a family, which a pod could have. */
void ztunnel_addresses(const struct words *words, union addr ztunnel[FAMILIES]);

/* Says what is to be seen before anything is changed: own_netns and listens. */
struct ztunnels ztunnels_seen(const struct options *options, const struct settings *wanted);

/* Gives each cgroup of -t the lowest free place, if it has none; and so knows `everywhere`. */
void ztunnels_write(const struct options *options, const struct settings *wanted,
		    const struct settings *before, struct ztunnels *ztunnels);

/*
 * Takes over from the settings before what still counts: whose netns are ztunnels', and
 * where there was another ztunnel, its addresses: until this one listens, or as those of
 * its predecessor.
 */
void ztunnel_follow(struct settings *settings, const struct settings *before,
		    struct ztunnels *ztunnels);

/* Puts the loader's own netns into the settings. Needs iter_netns. */
void ztunnel_own_netns(struct settings *settings, const struct ztunnels *ztunnels);

/* True: it waited, but listens; the settings have changed. */
bool ztunnel_takes_over(struct settings *settings);

/* Warns if it is nowhere, or known by nothing. */
void ztunnel_warn(const struct options *options, const struct settings *settings,
		  const struct ztunnels *ztunnels);

/* kubelet.c */

struct kubelets {
	__u64 id[WORDS]; /* of their cgroups */
	const char *path[WORDS];
	int count;
};

/* Those of -k, or of the kubelets that run; of these as many as there is room for. */
struct kubelets kubelets_seen(const struct options *options);

/* Makes `kubelets` hold these and no other. */
void kubelets_write(const struct kubelets *kubelets);

/* attach.c */

/* Says which programs are to be loaded. */
void programs_choose(struct bpf_object *object, const struct options *options);

/* Attaches them: on a cgroup where theirs are, in one step each. */
void programs_attach(struct bpf_object *object, const struct options *options,
		     const struct ztunnels *ztunnels, const struct kubelets *kubelets);

/* Detaches all others. There is no way back. */
void programs_detach_others(const struct options *options, const struct ztunnels *ztunnels,
			    const struct kubelets *kubelets);

#endif
