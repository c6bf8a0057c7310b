// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * inbound OBJECT PIN_DIR attach|bypass|beside NAME NETNS - what arrives goes to ztunnel
 * inbound OBJECT PIN_DIR detach NAME
 * inbound OBJECT PIN_DIR alone NAME NETNS - inbound_lookup there, and nothing before it
 * inbound OBJECT PIN_DIR note NAME CGROUP - what a ztunnel there begins to listen at
 *
 * Drives loader/inbound.c as onramp-zds does.
 */
#include "../loader/inbound.h"
#include <bpf/bpf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The object with inbound_netns alone loaded, on the maps that are pinned. */
static struct bpf_object *object_load(const char *path, const char *pin_dir)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *program;
	struct bpf_map *map;
	char *pin;

	if (!object)
		err(1, "%s", path);
	bpf_object__for_each_program(program, object) bpf_program__set_autoload(
		program, !strcmp(bpf_program__name(program), "inbound_netns"));
	bpf_object__for_each_map (map, object) {
		if (strchr(bpf_map__name(map), '.'))
			continue;
		if (asprintf(&pin, "%s/maps/%s", pin_dir, bpf_map__name(map)) < 0)
			err(1, "memory");
		bpf_map__set_pin_path(map, pin);
		free(pin);
	}
	if (bpf_object__load(object))
		err(1, "%s: load", path);
	return object;
}

/* One of PIN_DIR/programs, by a link that is pinned at that path there. */
static int attach(const char *pin_dir, const char *name, enum bpf_attach_type type,
		  const char *where, const char *pin)
{
	char program[4096], path[4096];
	int link;

	snprintf(program, sizeof(program), "%s/programs/%s", pin_dir, name);
	snprintf(path, sizeof(path), "%s/%s", pin_dir, pin);
	link = bpf_link_create(bpf_obj_get(program), open(where, O_RDONLY), type, NULL);
	return link < 0 || bpf_obj_pin(link, path) ? -errno : 0;
}

int main(int argc, char **argv)
{
	struct inbound_template template;
	int netns, result;
	char pin[4096];

	if (argc < 4)
		errx(1,
		     "inbound OBJECT PIN_DIR attach|bypass|beside|alone|detach|note [NAME [OF]]");
	if (!strcmp(argv[3], "detach") && argc == 5) {
		result = inbound_detach(argv[2], argv[4]);
	} else if (!strcmp(argv[3], "note") && argc == 6) {
		/* As loader/zds_hooks.c does, which is no part of this. */
		snprintf(pin, sizeof(pin), "links/sock_ops-%s", argv[4]);
		result = attach(argv[2], "sock_ops", BPF_CGROUP_SOCK_OPS, argv[5], pin);
	} else if (!strcmp(argv[3], "alone") && argc == 6) {
		snprintf(pin, sizeof(pin), "inbound/%s", argv[4]);
		result = attach(argv[2], "inbound_lookup", BPF_SK_LOOKUP, argv[5], pin);
	} else {
		result = inbound_open(&template, object_load(argv[1], argv[2]));
		if (!result && argc == 6) {
			netns = open(argv[5], O_RDONLY);
			result = inbound_note(argv[2], netns);
			if (!result || result == -ENOENT) /* in node mode it is not there */
				result = inbound_attach(&template, argv[2], argv[4], netns,
							!strcmp(argv[3], "bypass"),
							!strcmp(argv[3], "beside"));
		}
	}
	if (result)
		errx(1, "%s: %s", argv[3], strerror(-result));
	return 0;
}
