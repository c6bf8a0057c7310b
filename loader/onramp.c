// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Nothing is changed before all arguments are understood; errx() leaves, undo() tidies up. */
#include "onramp.h"
#include "onramp.skel.h"
#include "usage.h" /* made from usage.txt: usage, commands, options, short_options */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <err.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>
#define need(condition, ...) ((condition) ? (void)0 : errx(1, __VA_ARGS__))
#define run(link) need(!read(open(pin("links/", link), O_RDONLY), &(char){ 0 }, 1), link ": %m")
#define is(name) (program == skel->progs.name)
#define pin(in, name) (asprintf((char **)&path, "%s/%s%s", arg['p'], in, name) > 0 ? path : "")
#define CAPABILITIES "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN; before 5.11 CAP_SYS_RESOURCE"
#define HYBRID "/sys/fs/cgroup/unified" /* cgroup2, where v1 is at the usual place */
/* Something to change, and what was there before: an entry of a map, or a program's pin. */
static struct change {
	const char *text, *map;	     /* of a program: its pin, and NULL */
	struct prefix key;	     /* of a rule; all zero for settings */
	__u32 value[18], before[18]; /* an enum rule, or all of struct settings */
	bool remove, existed;
	int fd, old_link, old_program; /* negative, or 0: none */
} * changes, *wishes;
static int wanted, done = 1; /* how many wishes and changes, of which the first is none */
/* By option letter; and g, s, l: where getsockopt, sock_ops and lookup are attached */
static const char *path, *arg[128] = { ['p'] = "/sys/fs/bpf/onramp", ['l'] = "/proc/self/ns/net" };
static struct onramp *skel;

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	return (void)level, vfprintf(stderr, format, args);
}

static struct prefix parse(const char *text)
{
	union addr ip = { .word[2] = htonl(0xffff) };
	char copy[64] = "";
	int length, end = 0, fields = sscanf(text, "%63[^/]/%d%n", copy, &length, &end);
	int bits = inet_pton(AF_INET, copy, &ip.word[3]) == 1 ? 32 : 128;
	need(bits == 32 || inet_pton(AF_INET6, copy, &ip) == 1, "%s: give an IP address", text);
	length = fields == 1 && !text[end = strlen(copy)] ? bits : length;
	need(!text[end] && length >= 0 && length <= bits, "%s: give 0 to %d bits", text, bits);
	for (int b = 128 - bits + length; b < 128; b++) ip.byte[b / 8] &= ~(0x80 >> b % 8);
	return (struct prefix){ 128 - bits + length, ip };
}

static void add_rule(const char *cidr, __u32 rule) /* 0: remove it */
{
	const char *map = rule == RULE_BYPASS ? "bypass_rules" : "mesh_rules";
	wishes[wanted++] = (struct change){ cidr, map, parse(cidr), { rule }, .remove = !rule };
}

/* The inode number, which is what the kernel calls cgroups and netns by; 0 for no name. */
static __u64 inode(const char *name, __u32 magic, const char *kind)
{
	struct statfs fs;
	struct stat st = {};
	bool dir = magic != NSFS_MAGIC;
	bool there = name && !stat(name, &st) && !statfs(name, &fs) && fs.f_type == magic;
	need(!name || (there && S_ISDIR(st.st_mode) == dir), "%s: give a %s", name, kind);
	return st.st_ino;
}

static void unload(void)
{
	unlink(pin("links/", "connect4")), unlink(pin("links/", "connect6")); /* these first */
	need(!nftw(arg['p'], (void *)remove, 8, FTW_DEPTH | FTW_PHYS), "%s: %m", arg['p']);
}

static void undo(void)
{
	for (struct change *change = changes + done; --change > changes;)
		if (change->existed)
			bpf_map_update_elem(change->fd, &change->key, &change->before, 0);
		else if (change->map)
			bpf_map_delete_elem(change->fd, &change->key);
		else if (change->old_program > 0)
			bpf_link_update(change->old_link, change->old_program, NULL);
		else if (unlink(change->text), change->old_link >= 0)
			bpf_obj_pin(change->old_link, change->text);
}

static void write_maps(void)
{
	for (int i = 0; i < wanted; i++) {
		struct change *c = memcpy(&changes[done++], &wishes[i], sizeof(*c));
		int fd = c->fd = c->map == c[-1].map ? c[-1].fd : bpf_obj_get(pin("maps/", c->map));
		struct prefix key = {}, *at = NULL;
		bool found = fd >= 0 && !bpf_map_lookup_elem(fd, &c->key, &c->before);
		/* A look-up is content with a wider prefix: seek this very one. */
		for (; found && !bpf_map_get_next_key(fd, at, &key); at = &key)
			c->existed |= !memcmp(&key, &c->key, sizeof(key));
		need(fd >= 0 && !(c->remove ? bpf_map_delete_elem(fd, &c->key) :
					      bpf_map_update_elem(fd, &c->key, &c->value, 0)),
		     "%s: cannot change %s: %m", c->text, c->map);
	}
}

static void attach(struct bpf_program *program) /* in the place of its predecessor's */
{
	const char *name = bpf_program__name(program), *new = pin("links/", "new");
	bool tracing = bpf_program__type(program) == BPF_PROG_TYPE_TRACING;
	const char *to = arg[is(lookup) ? 'l' : is(sock_ops) ? 's' : is(getsockopt) ? 'g' : 'c'];
	struct bpf_map *of = is(pods) ? skel->maps.pod_ips : is(rules) ? skel->maps.rules_turns : 0;
	union bpf_iter_link_info iter = { .map.map_fd = of ? bpf_map__fd(of) : 0 };
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &iter, .link_info_len = sizeof(iter));
	struct change *c = &changes[done++];
	struct bpf_link_info info = {};
	struct bpf_prog_info other = {}; /* who keeps us out */
	struct bpf_link *link;
	__u32 id = 0, size = sizeof(other), err;
	c->text = pin(strstr("pods rules metrics direct", name) ? "" : "links/", name);
	c->old_link = bpf_obj_get(c->text);
	if (!bpf_program__autoload(program) || !to)
		return; /* see load() */
	bpf_obj_get_info_by_fd(c->old_link, &info, &(__u32){ sizeof(info) });
	if (!tracing && !is(lookup) &&
	    info.cgroup.cgroup_id == inode(to, CGROUP2_SUPER_MAGIC, "cgroup2")) {
		c->old_program = bpf_prog_get_fd_by_id(info.prog_id);
		err = bpf_link_update(c->old_link, bpf_program__fd(program), NULL);
	} else {
		unlink(new); /* of a loader that was killed */
		link = of	  ? bpf_program__attach_iter(program, &opts) :
		       tracing	  ? bpf_program__attach(program) :
		       is(lookup) ? bpf_program__attach_netns(program, open(to, O_RDONLY)) :
				    bpf_program__attach_cgroup(program, open(to, O_RDONLY));
		err = !link || bpf_link__pin(link, new) ||
		      (rename(new, c->text) && (unlink(new), 1));
	}
	if ((err = err ? errno : 0) == EPERM) /* the first there is exclusive: see README */
		bpf_prog_query(open(to, O_RDONLY), bpf_program__expected_attach_type(program),
			       BPF_F_QUERY_EFFECTIVE, NULL, &id, &(__u32){ 1 }),
			bpf_obj_get_info_by_fd(bpf_prog_get_fd_by_id(id), &other, &size);
	need(!err, "%s: cannot attach to %s: %s: %s%s", name, to, strerror(err),
	     *other.name ? "in the way: " : "see onramp-doctor", other.name);
}

static void load(bool loaded)
{
	struct settings new = { ZTUNNEL_PORTS };
	need(arg['z'] || (arg['z'] = getenv("ZTUNNEL_IP")), "no ztunnel: give -z or ZTUNNEL_IP");
	for (char *ip, *list = strdup(arg['z']); (ip = strsep(&list, ","));) {
		struct prefix p = parse(ip);
		struct sockaddr_in6 name = { AF_INET6, 1, .sin6_addr = *(struct in6_addr *)&p.ip };
		int fd = socket(AF_INET6, SOCK_DGRAM, 0);
		bool v6 = strchr(ip, ':'), in_pod = !strcmp(ip, v6 ? "::1" : "127.0.0.1");
		need(in_pod || (p.length == 128 && p.ip.byte[v6 ? 0 : 12] % 127), "%s: no pod", ip);
		need(!in_pod || arg['t'], "%s: in-pod mode: give ztunnel's cgroup, -t", ip);
		need(!new.ztunnel[v6].half[1], "%s: the second of its family", ip);
		new.ztunnel[v6] = p.ip;
		if (in_pod || connect(fd, (void *)&name, sizeof(name)) ||
		    getsockname(fd, (void *)&name, &(socklen_t){ sizeof(name) }) ||
		    memcmp(&name.sin6_addr, &p.ip, sizeof(p.ip)))
			arg['l'] = NULL; /* not ztunnel's, where each would be its own source */
	}
	arg['c'] = arg['c'] ?: access(HYBRID, F_OK) ? "/sys/fs/cgroup" : HYBRID;
	new.root_cgroup = inode(arg['c'], CGROUP2_SUPER_MAGIC, "cgroup2 directory");
	new.ztunnel_cgroup = inode(arg['t'], CGROUP2_SUPER_MAGIC, "cgroup2 directory");
	new.node_netns = inode(arg['n'], NSFS_MAGIC, "netns like /proc/PID/ns/net");
	new.flags = (arg['H'] ? NO_HOST_CAPTURE : 0) | (arg['d'] ? DNS_CAPTURE : 0);
	inode("/sys/kernel/btf", SYSFS_MAGIC, "kernel with BTF");
	new.ztunnel_netns = inode(arg['l'], NSFS_MAGIC, "netns");
	arg['s'] = arg['c'], arg['g'] = arg['t'] ?: arg['c'];
	wishes[wanted] = (struct change){ .text = "-z", .map = "settings" };
	memcpy(wishes[wanted++].value, &new, sizeof(new)), memset(&new, 0, sizeof(new.ztunnel));
	need(loaded || !(mkdir(arg['p'], 01700) || atexit(unload)), "%s: %m: give -p", arg['p']);
	inode(arg['p'], BPF_FS_MAGIC, "path in a bpffs (mount -t bpf)");
	for (struct bpf_map *map = NULL; (map = bpf_object__next_map(skel->obj, map));)
		if (!strchr(bpf_map__name(map), '.')) /* constants stay with the programs */
			bpf_map__set_pin_path(map, pin("maps/", bpf_map__name(map)));
	for (struct bpf_program *p = NULL; (p = bpf_object__next_program(skel->obj, p));)
		bpf_program__set_autoload(p, arg['d'] || !strstr(bpf_program__name(p), "msg"));
	need(!bpf_object__load(skel->obj), "cannot load: %m: %s",
	     errno == EPERM ? "give " CAPABILITIES : "see onramp-doctor, or -v");
	atexit(undo); /* at first no ztunnel; but whose execs count, or all were recorded */
	bpf_map_update_elem(bpf_map__fd(skel->maps.settings), &(__u32){ 0 }, &new, BPF_NOEXIST);
	for (struct bpf_program *p = NULL; (p = bpf_object__next_program(skel->obj, p));)
		attach(p);		       /* connect last: see the Makefile */
	arg['l'] ? run("listeners") : (void)0; /* before the first number is used */
	write_maps(); /* what is attached by now still does as before, or nothing */
	arg['l'] ? arg['s'] = arg['g'], attach(skel->progs.sock_ops) : (void)0; /* all numbered */
	run("iter_task");
	for (struct bpf_program *p = NULL; (p = bpf_object__next_program(skel->obj, p));)
		if (!bpf_program__autoload(p) || (p == skel->progs.lookup && !arg['l']))
			unlink(pin("links/", bpf_program__name(p))); /* not needed any more */
}

int main(int argc, char **argv)
{
	enum { LOAD, ENROLL, EXCLUDE, FORGET, UNLOAD, NONE } command = 0; /* as in usage.txt */
	const char rules[] = "-exb", *rule;				  /* by enum rule */
	struct stat d, up; /* a bpffs' own root may have that mode as well */
	int option, here;
	while (command < NONE && (argc < 2 || strcmp(argv[1], commands[command]))) command++;
	command == NONE &&strstr(argv[argc > 1], "help") ? exit(fputs(usage, stdout) < 0) : (void)0;
	need(command<NONE, "%s: no such command: see onramp help", argc> 1 ? argv[1] : "-");
	changes = calloc(2 * argc + 64, sizeof(*changes)), wishes = changes + argc + 62;
	for (argv++, argc--; (option = getopt_long(argc, argv, short_options, options, 0)) > 0;) {
		need(!strchr("?:", option) && (command == LOAD || strchr("pv", option)),
		     "%s: not like this: see onramp help", argv[optind - 1 - !!optarg]);
		(void)(option == 'z' && arg['z'] && asprintf(&optarg, "%s,%s", arg['z'], optarg));
		arg[option] = optarg ? optarg : "";
		(rule = strchr(rules, option)) ? add_rule(optarg, rule - rules) : (void)0;
	}
	need((command % UNLOAD > 0) == (optind < argc), "%s: see onramp help", commands[command]);
	while (optind < argc) add_rule(argv[optind++], command % FORGET);
	libbpf_set_print(arg['v'] ? print : NULL);
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kernel_log_level = 4 * !!arg['v']); /* figures */
	need((skel = onramp__open_opts(&opts)), "cannot open the BPF object: %m");
	here = !stat(arg['p'], &d) && d.st_mode == 041700 && inode(arg['p'], BPF_FS_MAGIC, "bpffs");
	here = here && (stat(pin("..", ""), &up) || d.st_dev == up.st_dev);
	here |= !access(pin("maps/", "settings"), F_OK); /* where somebody changed that mode */
	need(here || command == LOAD, "%s: no onramp here: load it, or give -p", arg['p']);
	command == LOAD ? load(here) : command == UNLOAD ? unload() : (atexit(undo), write_maps());
	_exit(0); /* without undoing */
}
