// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * See inbound.h. Loading an object takes 9 ms a pod, loading its relocated instructions
 * 1 ms: they are the same but for the map that holds the constants.
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

#define PROGRAM "inbound_lookup"
#define CONSTANTS ".rodata.inbound"

static bool is_call_of_function(const struct bpf_insn *insn)
{
	return insn->code == (BPF_JMP | BPF_CALL) && insn->src_reg == BPF_PSEUDO_CALL;
}

/*
 * Where the function after `start` begins: the verifier is told by func_info which
 * functions are global, and the kernel tells these of the program as it has become, not
 * as it was given. In the order of their beginnings they are the same.
 */
static __u32 next_function(const struct inbound_template *template, __u32 start)
{
	__u32 next = template->insn_count;

	for (size_t i = 0; i < template->insn_count; i++) {
		__u32 target = i + template->insns[i].imm + 1;

		if (is_call_of_function(&template->insns[i]) && target > start && target < next)
			next = target;
	}
	return next;
}

static int functions_read(struct inbound_template *template, int program_fd)
{
	struct bpf_prog_info info = {};
	__u32 size = sizeof(info), start = 0;

	if (bpf_obj_get_info_by_fd(program_fd, &info, &size))
		return -errno;
	template->function_count = info.nr_func_info;
	template->functions = calloc(info.nr_func_info, sizeof(*template->functions));
	if (!template->functions)
		return -ENOMEM;
	info = (struct bpf_prog_info){
		.nr_func_info = template->function_count,
		.func_info_rec_size = sizeof(*template->functions),
		.func_info = (__u64)(unsigned long)template->functions,
	};
	if (bpf_obj_get_info_by_fd(program_fd, &info, &size))
		return -errno;
	for (__u32 i = 0; i < template->function_count; i++) {
		template->functions[i].insn_off = start;
		start = next_function(template, start);
	}
	return 0;
}

int inbound_open(struct inbound_template *template, const struct bpf_object *object)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, PROGRAM);
	struct bpf_map *constants = bpf_object__find_map_by_name(object, CONSTANTS);
	int err;

	*template = (struct inbound_template){ .btf_fd = bpf_object__btf_fd(object) };
	if (!program || !constants)
		return -ENOENT;
	template->constants_fd = bpf_map__fd(constants);
	template->insn_count = bpf_program__insn_cnt(program);
	template->insns = calloc(template->insn_count, sizeof(struct bpf_insn));
	if (!template->insns)
		return -ENOMEM;
	memcpy(template->insns, bpf_program__insns(program),
	       template->insn_count * sizeof(struct bpf_insn));
	err = functions_read(template, bpf_program__fd(program));
	if (err)
		inbound_close(template);
	return err;
}

void inbound_close(struct inbound_template *template)
{
	free(template->insns);
	free(template->functions);
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
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_SK_LOOKUP,
		    .prog_btf_fd = template->btf_fd, .func_info = template->functions,
		    .func_info_cnt = template->function_count,
		    .func_info_rec_size = sizeof(*template->functions));
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

/* The address of the struct net; and notes what ztunnel listens on there already. */
static int netns_read(void *argument)
{
	struct visit *visit = argument;
	char nothing[2];
	__u64 id;
	int err = netns_ids(visit->pin_dir, &id, &visit->net);

	return err ? err :
		     iterator_read(visit->pin_dir, "iter_listeners", nothing, sizeof(nothing));
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

int inbound_note(const char *pin_dir, int netns_fd, __u64 *net)
{
	struct visit visit = { .pin_dir = pin_dir };
	int err = netns_visit(netns_fd, netns_read, &visit);

	*net = visit.net;
	return err;
}

int inbound_attach(const struct inbound_template *template, const char *pin_dir, const char *name,
		   int netns_fd, bool bypass, bool beside)
{
	struct visit visit = { .pin_dir = pin_dir };
	struct inbound inbound = { .bypass = bypass, .beside = beside };
	char path[PATH_MAX];
	int link, program, err;

	err = netns_visit(netns_fd, netns_read, &visit);
	if (err)
		return err;
	inbound.net = visit.net;
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

/* What the copy that a link has now knows: it is the constants of its program's. */
static int link_read(int link, struct inbound *inbound)
{
	struct bpf_link_info info = {};
	struct bpf_prog_info program_info = {};
	struct bpf_map_info map_info;
	__u32 maps[32], size = sizeof(info), key = 0, found = 0;
	int program, map;

	if (bpf_obj_get_info_by_fd(link, &info, &size))
		return -errno;
	program = bpf_prog_get_fd_by_id(info.prog_id);
	if (program < 0)
		return -errno;
	program_info.nr_map_ids = 32;
	program_info.map_ids = (__u64)(unsigned long)maps;
	size = sizeof(program_info);
	if (!bpf_obj_get_info_by_fd(program, &program_info, &size))
		found = program_info.nr_map_ids;
	close(program);
	for (__u32 i = 0; i < found && i < 32; i++) {
		map = bpf_map_get_fd_by_id(maps[i]);
		map_info = (struct bpf_map_info){};
		size = sizeof(map_info);
		if (map >= 0 && !bpf_obj_get_info_by_fd(map, &map_info, &size) &&
		    !strcmp(map_info.name, "inbound") && !bpf_map_lookup_elem(map, &key, inbound)) {
			close(map);
			return 0;
		}
		close(map);
	}
	return -ENOENT;
}

static int link_upgrade(const struct inbound_template *template, const char *path)
{
	int link = bpf_obj_get(path), program, err;
	struct inbound inbound;

	if (link < 0) /* ENOENT: its pod has just left */
		return errno == ENOENT ? 0 : -errno;
	err = link_read(link, &inbound);
	program = err ? err : copy_load(template, &inbound);
	if (program < 0) {
		close(link);
		return program;
	}
	if (bpf_link_update(link, program, NULL))
		err = -errno;
	if (err == -ENOLINK) /* its netns is gone */
		err = unlink(path) && errno != ENOENT ? -errno : 0;
	close(program);
	close(link);
	return err;
}

/* For each pin, until one fails. */
static int each_pin(const char *pin_dir, int (*act)(const struct inbound_template *, const char *),
		    const struct inbound_template *template)
{
	char path[PATH_MAX];
	struct dirent *entry;
	int err = 0;
	DIR *pins;

	snprintf(path, sizeof(path), "%s/inbound", pin_dir);
	pins = opendir(path);
	if (!pins)
		return errno == ENOENT ? 0 : -errno;
	while (!err && (entry = readdir(pins))) {
		if (entry->d_name[0] == '.')
			continue;
		pin_path(path, pin_dir, entry->d_name);
		err = act(template, path);
	}
	closedir(pins);
	return err;
}

int inbound_upgrade(const struct inbound_template *template, const char *pin_dir)
{
	return each_pin(pin_dir, link_upgrade, template);
}

static int pin_remove(const struct inbound_template *template, const char *path)
{
	(void)template;
	unlink(path);
	return 0;
}

void inbound_detach_all(const char *pin_dir)
{
	each_pin(pin_dir, pin_remove, NULL);
}

__u32 ztunnels_sum(int map)
{
	__u64 id, *last = NULL;
	__u32 sum = 1;

	for (; !bpf_map_get_next_key(map, last, &id); last = &id)
		sum += id * 0x9e3779b97f4a7c15ULL >> 32;
	return sum ? sum : 1;
}
