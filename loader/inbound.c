// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * See inbound.h. Copies are made of the relocated instructions, which are the same but
 * for the map that holds the constants: an object for each pod takes 9 ms more.
 */
#include "inbound.h"
#include "netns.h"
#include "onramp.h"
#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM "inbound_netns"
#define CONSTANTS ".rodata.inbound"

int inbound_open(struct inbound_template *template, const struct bpf_object *object)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, PROGRAM);
	struct bpf_map *constants = bpf_object__find_map_by_name(object, CONSTANTS);

	*template = (struct inbound_template){};
	if (!program || !constants)
		return -ENOENT;
	template->constants_fd = bpf_map__fd(constants);
	template->insn_count = bpf_program__insn_cnt(program);
	template->insns = calloc(template->insn_count, sizeof(struct bpf_insn));
	if (!template->insns)
		return -ENOMEM;
	memcpy(template->insns, bpf_program__insns(program),
	       template->insn_count * sizeof(struct bpf_insn));
	return 0;
}

/* A map of constants of its own: file descriptor, or a negative errno. */
static int constants_make(const struct inbound *inbound)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_RDONLY_PROG);
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "inbound", sizeof(__u32), sizeof(*inbound), 1,
				 &options);
	__u32 key = 0;

	if (map < 0)
		return -errno;
	if (bpf_map_update_elem(map, &key, inbound, BPF_ANY) || bpf_map_freeze(map)) {
		int err = -errno;

		close(map);
		return err;
	}
	return map;
}

/* A copy of the program: file descriptor, or a negative errno. */
static int copy_load(const struct inbound_template *template, const struct inbound *inbound)
{
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_SK_LOOKUP);
	int constants = constants_make(inbound), program;
	struct bpf_insn *insns;

	if (constants < 0)
		return constants;
	insns = calloc(template->insn_count, sizeof(*insns));
	if (!insns) {
		close(constants);
		return -ENOMEM;
	}
	memcpy(insns, template->insns, template->insn_count * sizeof(*insns));
	for (size_t i = 0; i < template->insn_count; i++)
		if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW) &&
		    insns[i].src_reg == BPF_PSEUDO_MAP_VALUE &&
		    insns[i].imm == template->constants_fd)
			insns[i].imm = constants;
	program = bpf_prog_load(BPF_PROG_TYPE_SK_LOOKUP, PROGRAM, "Dual BSD/GPL", insns,
				template->insn_count, &options);
	if (program < 0)
		program = -errno;
	free(insns);
	close(constants); /* the program holds it */
	return program;
}

/* What is to be known of a netns. */
struct visit {
	const char *pin_dir;
	__u64 net;
};

static int net_read(void *argument)
{
	struct visit *visit = argument;
	__u64 id;

	return netns_ids(visit->pin_dir, &id, &visit->net);
}

static int listeners_read(void *argument)
{
	struct visit *visit = argument;
	char nothing[2];

	return iterator_read(visit->pin_dir, "iter_listeners", nothing, sizeof(nothing));
}

static void pin_path(char path[PATH_MAX], const char *pin_dir, const char *name)
{
	snprintf(path, PATH_MAX, "%s/inbound/%s", pin_dir, name);
}

/* In the place of what is pinned there, so that there is always one. */
static int link_pin(int program, int netns_fd, const char *pin_dir, const char *name)
{
	char directory[PATH_MAX], path[PATH_MAX], new[PATH_MAX];
	int link = bpf_link_create(program, netns_fd, BPF_SK_LOOKUP, NULL), err = 0;

	if (link < 0)
		return -errno;
	snprintf(directory, sizeof(directory), "%s/inbound", pin_dir);
	mkdir(directory, 0700);
	pin_path(path, pin_dir, name);
	pin_path(new, pin_dir, "new");
	unlink(new); /* of one that was killed */
	if (bpf_obj_pin(link, new) || rename(new, path))
		err = -errno;
	close(link);
	return err;
}

/* Whether a link is of the netns of that file descriptor, and not of one before it. */
static bool is_in(int link, int netns_fd)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);
	struct stat netns;

	return !bpf_obj_get_info_by_fd(link, &info, &size) && !fstat(netns_fd, &netns) &&
	       info.netns.netns_ino == netns.st_ino;
}

int inbound_net(const char *pin_dir, int netns_fd, __u64 *net)
{
	struct visit visit = { .pin_dir = pin_dir };
	int err = netns_visit(netns_fd, net_read, &visit);

	*net = visit.net;
	return err;
}

int inbound_note(const char *pin_dir, int netns_fd)
{
	struct visit visit = { .pin_dir = pin_dir };

	return netns_visit(netns_fd, listeners_read, &visit);
}

int inbound_attach(const struct inbound_template *template, const char *pin_dir, const char *name,
		   int netns_fd, bool bypass, bool beside)
{
	struct inbound inbound = { .bypass = bypass, .beside = beside };
	char path[PATH_MAX];
	int link, program, err;

	err = inbound_net(pin_dir, netns_fd, &inbound.net);
	if (err)
		return err;
	program = copy_load(template, &inbound);
	if (program < 0)
		return program;
	pin_path(path, pin_dir, name);
	link = bpf_obj_get(path);
	/* It may be of another netns, or of one that is gone. */
	if (link < 0 || !is_in(link, netns_fd) || bpf_link_update(link, program, NULL))
		err = link_pin(program, netns_fd, pin_dir, name);
	if (link >= 0)
		close(link);
	close(program);
	return err;
}

bool inbound_is_attached(const char *pin_dir, const char *name, int netns_fd)
{
	char path[PATH_MAX];
	bool attached;
	int link;

	pin_path(path, pin_dir, name);
	link = bpf_obj_get(path);
	attached = link >= 0 && is_in(link, netns_fd);
	if (link >= 0)
		close(link);
	return attached;
}

int inbound_detach(const char *pin_dir, const char *name)
{
	char path[PATH_MAX];

	pin_path(path, pin_dir, name);
	return unlink(path) ? -errno : 0;
}

void inbound_detach_all(const char *pin_dir)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *pins;

	snprintf(path, sizeof(path), "%s/inbound", pin_dir);
	pins = opendir(path);
	while (pins && (entry = readdir(pins))) {
		pin_path(path, pin_dir, entry->d_name);
		unlink(path);
	}
	if (pins)
		closedir(pins);
}

__u32 ztunnels_sum(int map)
{
	__u64 id, *last = NULL;
	__u32 sum = 1;

	for (; !bpf_map_get_next_key(map, last, &id); last = &id)
		sum += id * 0x9e3779b97f4a7c15ULL >> 32;
	return sum ? sum : 1;
}
