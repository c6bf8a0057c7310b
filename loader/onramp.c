// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * onramp: puts its programs and maps into the kernel, pins them, and ends. Nothing is
 * changed before all arguments are understood; whoever cannot go on calls die().
 */
#include "inbound.h"
#include "loader.h"
#include "onramp.skel.h"
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>

#define CAPABILITIES "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN; before 5.11 CAP_SYS_RESOURCE"

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	return vfprintf(stderr, format, args);
}

/* The settings that the options ask for. */
static struct settings settings_wanted(const struct options *options)
{
	struct settings settings = { .mode = IN_POD_MODE, .port = ZTUNNEL_PORTS };

	if (options->ztunnels.count)
		settings.mode = NODE_MODE;
	ztunnel_addresses(&options->ztunnels, settings.ztunnel);
	settings.root_cgroup = cgroup_id(options->given['c']);
	if (options->given['n'])
		settings.node_netns = netns_inode(options->given['n']);
	if (options->given['H'])
		settings.flags |= NO_HOST_CAPTURE;
	if (options->given['d'])
		settings.flags |= DNS_CAPTURE;
	if (options->given['s'])
		settings.flags |= STRICT;
	if (options->given['k'])
		settings.flags |= KUBELET_GIVEN;
	return settings;
}

/* Those that are at work. False, and all zero: there are none. */
static bool settings_read(struct settings *settings)
{
	__u32 key = 0;

	memset(settings, 0, sizeof(*settings));
	return !bpf_map_lookup_elem(pinned_map("settings"), &key, settings);
}

/* In one update: no connect() sees half of the old and half of the new. */
static void settings_write(const struct settings *settings)
{
	struct settings before;
	__u32 key = 0;
	bool existed = settings_read(&before);

	entry_write("settings", pinned_map("settings"), &key, existed ? &before : NULL, settings);
}

/* The map is pinned, or the one that is pinned already is used. */
static void map_choose(struct bpf_map *map, const char *pin_dir)
{
	const char *path = pin("maps/%s", bpf_map__name(map));
	struct bpf_map_info info = {};
	__u32 size = sizeof(info);
	int old;

	if (strchr(bpf_map__name(map), '.'))
		return; /* constants stay with the programs */
	bpf_map__set_pin_path(map, path);
	old = bpf_obj_get(path);
	if (old < 0 && errno == EPERM)
		die("%s: %m: give " CAPABILITIES, path);
	if (old < 0 && errno != ENOENT)
		die("%s: %m", path);
	if (old < 0) {
		undo_pin(path);
		return;
	}
	if (bpf_obj_get_info_by_fd(old, &info, &size) || info.type != bpf_map__type(map) ||
	    info.key_size != bpf_map__key_size(map) ||
	    info.value_size != bpf_map__value_size(map) ||
	    info.max_entries != bpf_map__max_entries(map) ||
	    info.map_flags != bpf_map__map_flags(map))
		die("%s: holds another release of onramp: onramp unload, then load again", pin_dir);
	close(old);
}

/* All programs that these options need, and all maps, in the kernel. */
static struct bpf_object *object_load(const struct options *options)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts);
	struct onramp *skel;
	struct bpf_map *map;

	if (options->given['v'])
		opts.kernel_log_level = 4; /* figures */
	skel = onramp__open_opts(&opts);
	if (!skel)
		die("cannot open the BPF object: %m");
	bpf_object__for_each_map (map, skel->obj) map_choose(map, options->given['p']);
	programs_choose(skel->obj, options);
	if (!bpf_object__load(skel->obj))
		return skel->obj;
	if (errno == EPERM)
		die("cannot load: %m: give " CAPABILITIES);
	die("cannot load: %m: see onramp-doctor, or -v");
}

/* From here on only SIGKILL ends the loader half-way, and it has all descriptors there are. */
static void last_to_the_end(void)
{
	struct rlimit descriptors;
	sigset_t ends;

	signal(SIGPIPE, SIG_IGN); /* whoever reads what -v says may have ended */
	sigemptyset(&ends);
	sigaddset(&ends, SIGHUP);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	getrlimit(RLIMIT_NOFILE, &descriptors);
	descriptors.rlim_cur = descriptors.rlim_max;
	setrlimit(RLIMIT_NOFILE, &descriptors);
}

static void load(const struct options *options)
{
	struct settings wanted = settings_wanted(options), before;
	struct settings first = { .root_cgroup = wanted.root_cgroup,
				  .node_netns = wanted.node_netns };
	struct ztunnels ztunnels = ztunnels_seen(options, &wanted);
	struct kubelets kubelets = kubelets_seen(options);
	struct bpf_object *object;

	if (access("/sys/kernel/btf/vmlinux", R_OK))
		die("/sys/kernel/btf/vmlinux: %m: give a kernel with BTF");
	last_to_the_end();
	if (!pins_are_there())
		pins_make();
	object = object_load(options);

	/* From the first exec on it must be known whose count; nothing else happens yet. */
	if (!settings_read(&before))
		settings_write(&first);
	rules_write(options->wishes, options->wish_count);
	if (options->given['w'])
		workloads_join(options->given['w']);
	ztunnels_write(options, &wanted, &before, &ztunnels);
	kubelets_write(&kubelets);
	programs_attach(object, options, &ztunnels, &kubelets);

	settings_read(&before); /* again: a ztunnel that waited may have taken over */
	wanted.ztunnels = ztunnels_sum(pinned_map("ztunnels"));
	ztunnel_follow(&wanted, &before, &ztunnels);
	if (ztunnels.own_netns)
		ztunnel_own_netns(&wanted, &ztunnels);
	settings_write(&wanted);
	if (ztunnel_takes_over(&wanted))
		settings_write(&wanted);
	programs_detach_others(options, &ztunnels, &kubelets);
	ztunnel_warn(options, &wanted, &ztunnels);
}

int main(int argc, char **argv)
{
	struct options options = options_read(argc, argv);

	libbpf_set_print(options.given['v'] ? print : NULL);
	pins_lock(options.given['p']);
	if (options.command != LOAD && !pins_are_there())
		die("%s: no onramp here: load it, or give -p", options.given['p']);
	switch (options.command) {
	case LOAD:
		load(&options);
		break;
	case UNLOAD:
		pins_remove();
		break;
	case RULES:
		rules_list();
		break;
	default: /* enroll, exclude, forget */
		rules_write(options.wishes, options.wish_count);
	}
	return 0;
}
