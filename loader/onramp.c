// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Loads, configures and unloads the BPF object, and exits. Nothing is changed
 * before all arguments are understood; any failure leaves by errx(), and on the
 * way out undo() puts back what was changed, latest first.
 */
#include "onramp.h"
#include "onramp.skel.h"
#include "usage.h" /* made from usage.txt: usage, options, short_options */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <err.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#define need(condition, ...) ((condition) ? (void)0 : errx(1, __VA_ARGS__))
#define WHY strerror(errno)

/* Something to change, and what was there before: a rule, or a program's pin. */
static struct change {
	const char *text, *pin;
	struct prefix prefix;
	__u32 rule, before;		  /* 0: none */
	int rules, old_link, old_program; /* file descriptors; -1: none */
} * changes;
static int wanted, done;					/* how many; rules come first */
static const char *arg[128] = { ['p'] = "/sys/fs/bpf/onramp" }; /* by option letter */
static struct onramp *skel;

static char *pin(const char *folder, const char *name)
{
	char *path;

	need(asprintf(&path, "%s/%s%s", arg['p'], folder, name) > 0, "out of memory");
	return path;
}

static struct prefix parse(const char *text)
{
	union addr ip = { .word[2] = htonl(0xffff) };
	char copy[64] = "";
	int length, end = 0, fields = sscanf(text, "%63[^/]/%d%n", copy, &length, &end);
	int bits = inet_pton(AF_INET, copy, &ip.word[3]) == 1 ? 32 : 128;

	need(bits == 32 || inet_pton(AF_INET6, copy, &ip) == 1,
	     "%s: not an address: write it like 10.1.0.0/16 or fd00::/8", text);
	if (fields == 1 && !text[end = strlen(copy)])
		length = bits;
	need(!text[end] && length >= 0 && length <= bits,
	     "%s: bad prefix length: write 0 to %d after the slash", text, bits);
	for (int bit = 128 - bits + length; bit < 128; bit++)
		ip.byte[bit / 8] &= ~(0x80 >> bit % 8);
	return (struct prefix){ 128 - bits + length, ip };
}

/* The inode number, which is what the kernel calls cgroups and netns by; 0 for no name. */
static __u64 inode(const char *name, __u32 magic, const char *kind)
{
	struct statfs fs;
	struct stat st = {};
	bool ok = !name || (!stat(name, &st) && !statfs(name, &fs) && fs.f_type == magic);

	need(ok && (!name || magic == NSFS_MAGIC || S_ISDIR(st.st_mode)),
	     "%s: no such %s: give one that exists", name, kind);
	return st.st_ino;
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *place)
{
	return (void)st, (void)type, (void)place, remove(name);
}

static void unload(void)
{
	unlink(pin("links/", "connect4")); /* redirecting ends before what it needs does */
	need(!nftw(arg['p'], remove_one, 8, FTW_DEPTH), "%s: %s", arg['p'], WHY);
}

static void undo(void)
{
	while (done-- > 0) {
		struct change *change = &changes[done];

		if (!change->pin && change->before)
			bpf_map_update_elem(change->rules, &change->prefix, &change->before, 0);
		else if (!change->pin)
			bpf_map_delete_elem(change->rules, &change->prefix);
		else if (change->old_program >= 0)
			bpf_link_update(change->old_link, change->old_program, NULL);
		else if (!unlink(change->pin) && change->old_link >= 0)
			bpf_obj_pin(change->old_link, change->pin);
	}
}

static void write_rules(void)
{
	for (; done < wanted; done++) {
		struct change *change = &changes[done];
		struct prefix *want = &change->prefix, key, *at = NULL;
		const char *map = change->rule == RULE_BYPASS ? "bypass_rules" : "mesh_rules";
		int fd = change->rules = bpf_obj_get(pin("maps/", map));

		/* A look-up would be content with a wider prefix: seek this very one. */
		for (; !bpf_map_get_next_key(fd, at, &key); at = &key)
			if (!memcmp(&key, want, sizeof(key)))
				bpf_map_lookup_elem(fd, &key, &change->before);
		need(!(change->rule ? bpf_map_update_elem(fd, want, &change->rule, 0) :
				      bpf_map_delete_elem(fd, want)),
		     "%s: cannot change the rule: %s: see %s", change->text, WHY, pin("", "rules"));
	}
}

/* Attaches a program, or puts it in the place of the one that is attached. */
static void attach(struct bpf_program *program)
{
	bool narrow = program == skel->progs.getsockopt && arg['t']; /* all below it pay */
	const char *name = bpf_program__name(program), *cgroup = arg[narrow ? 't' : 'c'];
	bool tracing = bpf_program__type(program) == BPF_PROG_TYPE_TRACING;
	bool pods = program == skel->progs.pods, rules = program == skel->progs.rules;
	struct bpf_map *map = pods ? skel->maps.pod_ips : rules ? skel->maps.stats : NULL;
	union bpf_iter_link_info iter = { .map.map_fd = map ? bpf_map__fd(map) : 0 };
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &iter, .link_info_len = sizeof(iter));
	struct change *change = &changes[done];
	struct bpf_link_info info = {};
	struct bpf_link *link;
	int err;

	change->pin = pin(map || program == skel->progs.metrics ? "" : "links/", name);
	change->old_link = bpf_obj_get(change->pin);
	change->old_program = -1;
	bpf_obj_get_info_by_fd(change->old_link, &info, &(__u32){ sizeof(info) });
	if (!tracing && info.cgroup.cgroup_id == inode(cgroup, CGROUP2_SUPER_MAGIC, "")) {
		change->old_program = bpf_prog_get_fd_by_id(info.prog_id);
		err = bpf_link_update(change->old_link, bpf_program__fd(program), NULL);
	} else {
		unlink(pin("links/", "new")); /* of a loader that was killed */
		link = map     ? bpf_program__attach_iter(program, &opts) :
		       tracing ? bpf_program__attach(program) :
				 bpf_program__attach_cgroup(program, open(cgroup, O_RDONLY));
		err = !link || bpf_link__pin(link, pin("links/", "new")) ||
		      rename(pin("links/", "new"), change->pin);
	}
	need(!err, "%s: cannot attach to %s: %s: see bpftool cgroup tree", name, cgroup, WHY);
	done++;
}

static void load(bool loaded)
{
	const char *const usual[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	struct settings settings = { {}, 0, 0, 0, 0, 15001, 15006, 15053, 0 };
	struct bpf_program *program;
	struct prefix ztunnel;
	struct bpf_map *map;
	__u32 key = 0;

	need(!arg['d'], "-d: no DNS capture yet: leave it out");
	need(arg['z'] || (arg['z'] = getenv("ZTUNNEL_IP")), "no ztunnel: give -z or ZTUNNEL_IP");
	ztunnel = parse(arg['z']);
	settings.ztunnel[V4] = ztunnel.ip;
	need(ztunnel.length == 128 && !ztunnel.ip.half[0] && ztunnel.ip.byte[12] % 127,
	     "%s: give ztunnel's IPv4 pod address", arg['z']);
	if (!arg['c']) /* a hybrid node has v1 at the usual place, and cgroup2 below */
		arg['c'] = access(usual[1], F_OK) ? usual[0] : usual[1];
	settings.root_cgroup = inode(arg['c'], CGROUP2_SUPER_MAGIC, "cgroup2 directory");
	settings.ztunnel_cgroup = inode(arg['t'], CGROUP2_SUPER_MAGIC, "cgroup2 directory");
	settings.node_netns = inode(arg['n'], NSFS_MAGIC, "netns like /proc/PID/ns/net");
	settings.flags = arg['H'] ? NO_HOST_CAPTURE : 0;
	inode(dirname(strdup(arg['p'])), BPF_FS_MAGIC, "-p in a bpffs (mount -t bpf)");
	inode("/sys/kernel/btf", SYSFS_MAGIC, "kernel with BTF");
	need(loaded || !mkdir(arg['p'], 0700), "%s: %s: give another -p", arg['p'], WHY);

	skel = onramp__open();
	atexit(loaded ? undo : unload);
	bpf_object__for_each_map (map, skel->obj)
		if (!strchr(bpf_map__name(map), '.')) /* constants stay with the programs */
			bpf_map__set_pin_path(map, pin("maps/", bpf_map__name(map)));
	need(!bpf_object__load(skel->obj),
	     "cannot load: %s: give CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN; see -v", WHY);
	write_rules();
	bpf_object__for_each_program(program, skel->obj) /* connect last: see the Makefile */
		attach(program);
	need(!read(open(pin("links/", "iter_task"), O_RDONLY), &key, 1), "iter_task: %s", WHY);
	need(!bpf_map_update_elem(bpf_map__fd(skel->maps.settings), &key, &settings, 0),
	     "settings: cannot write: %s", WHY);
}

int main(int argc, char **argv)
{
	enum { FORGET, ENROLL, EXCLUDE, LOAD, UNLOAD, NONE } command = 0; /* as enum rule */
	const char *commands[] = { "forget", "enroll", "exclude", "load", "unload", "" };
	const char rules[] = "-exb", *rule; /* by enum rule */
	int option, loaded;

	while (command < NONE && (argc < 2 || strcmp(argv[1], commands[command])))
		command++;
	if (command == NONE && argc > 1 && strstr(argv[1], "help"))
		return fputs(usage, stdout) < 0;
	need(command<NONE, "%s: no such command: see onramp help", argc> 1 ? argv[1] : "-");
	changes = calloc(argc + 32, sizeof(*changes));
	for (argv++, argc--; (option = getopt_long(argc, argv, short_options, options, 0)) > 0;) {
		need(!strchr("?:", option) && (command == LOAD || strchr("pv", option)),
		     "%s: not for %s, or lacks a value: see onramp help", argv[optind - 1],
		     commands[command]);
		arg[option] = optarg ? optarg : "";
		if ((rule = strchr(rules, option)))
			changes[wanted++] = (struct change){ optarg, .rule = rule - rules };
	}
	need(command < LOAD ? optind < argc : optind == argc, "%s: needs %s: see onramp help",
	     commands[command], command < LOAD ? "CIDRs" : "no CIDRs");
	while (optind < argc)
		changes[wanted++] = (struct change){ argv[optind++], .rule = command };
	for (int i = 0; i < wanted; i++)
		changes[i].prefix = parse(changes[i].text);
	if (!arg['v'])
		libbpf_set_print(NULL);
	loaded = !access(pin("maps/", "settings"), F_OK);
	need(command == LOAD || loaded, "%s: no onramp here: load it, or give -p", arg['p']);
	if (command == LOAD)
		load(loaded);
	else if (command == UNLOAD)
		unload();
	else if (!atexit(undo))
		write_rules();
	_exit(0); /* without undoing */
}
