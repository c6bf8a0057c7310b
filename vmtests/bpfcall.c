// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * bpfcall - what bpftool cannot do, or not quickly.
 *
 *   bpfcall link CGROUP PROGRAM PIN  attaches a pinned connect4 program as a link
 *   bpfcall fill MAP VALUE           makes entries up until there is no room;
 *                                    prints how many, and what the kernel said
 *   bpfcall drain MAP                removes them
 *   bpfcall count MAP                prints how many entries it has
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static long get(const char *pin)
{
	return bpf(BPF_OBJ_GET, &(union bpf_attr){ .pathname = (__u64)pin });
}

#define BATCH 4096

/*
 * Keys differ in their last four bytes; a prefix has all of its bits. A hash takes
 * many at a time, for the sake of emulated machines, and overwrites; a trie one.
 */
static int fill(int map, __u32 value_of_all, bool drain)
{
	struct bpf_map_info info = {};
	union bpf_attr attr = {
		.info = { .bpf_fd = map, .info_len = sizeof(info), .info = (__u64)&info }
	};
	__u32 n = 0, done = 0, bits, batch, count;
	char *keys, *values;
	bool trie, again;
	int command;

	if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr))
		return 1;
	trie = info.type == BPF_MAP_TYPE_LPM_TRIE;
	batch = trie ? 1 : BATCH;
	if (trie)
		command = drain ? BPF_MAP_DELETE_ELEM : BPF_MAP_UPDATE_ELEM;
	else
		command = drain ? BPF_MAP_DELETE_BATCH : BPF_MAP_UPDATE_BATCH;
	bits = 8 * (info.key_size - sizeof(bits));
	keys = calloc(batch, info.key_size), values = calloc(batch, info.value_size);
	if (trie)
		memcpy(keys, &bits, sizeof(bits));
	for (__u32 i = 0; i < batch; i++)
		memcpy(values + i * info.value_size, &value_of_all, sizeof(value_of_all));
	do {
		for (__u32 i = 1, key = n + 1; i <= batch; i++, key++)
			memcpy(keys + i * info.key_size - sizeof(key), &key, sizeof(key));
		if (trie)
			attr = (union bpf_attr){ .map_fd = map,
						 .key = (__u64)keys,
						 .value = drain ? 0 : (__u64)values,
						 .flags = drain ? 0 : BPF_NOEXIST };
		else
			attr = (union bpf_attr){ .batch = { .map_fd = map,
							    .keys = (__u64)keys,
							    .values = (__u64)values,
							    .count = batch } };
		again = !bpf(command, &attr);
		count = trie ? again : attr.batch.count; /* how many it did */
		done += count;
		n += count + !again;
	} while (n < 1 << 21 && (again || errno == EEXIST)); /* an LRU would never be full */
	printf("%u %s\n", done, strerrorname_np(errno));
	return 0;
}

static int count(int map)
{
	struct bpf_map_info info = {};
	union bpf_attr attr = {
		.info = { .bpf_fd = map, .info_len = sizeof(info), .info = (__u64)&info }
	};
	char *key, *next;
	__u32 n = 0;

	if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr))
		return 1;
	key = calloc(2, info.key_size), next = key + info.key_size;
	attr = (union bpf_attr){ .map_fd = map, .next_key = (__u64)next };
	while (!bpf(BPF_MAP_GET_NEXT_KEY, &attr)) {
		memcpy(key, next, info.key_size);
		attr.key = (__u64)key;
		n++;
	}
	printf("%u\n", n);
	return errno != ENOENT;
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "link")) {
		union bpf_attr attr = { .link_create = { .prog_fd = get(argv[3]),
							 .target_fd = open(argv[2], O_RDONLY),
							 .attach_type =
								 BPF_CGROUP_INET4_CONNECT } };
		long link = bpf(BPF_LINK_CREATE, &attr);

		attr = (union bpf_attr){ .pathname = (__u64)argv[4], .bpf_fd = link };
		if (link < 0 || bpf(BPF_OBJ_PIN, &attr)) {
			perror("bpfcall: link");
			return 1;
		}
		return 0;
	}
	if (argc == 4 && !strcmp(argv[1], "fill"))
		return fill(get(argv[2]), atoi(argv[3]), false);
	if (argc == 3 && !strcmp(argv[1], "drain"))
		return fill(get(argv[2]), 0, true);
	if (argc == 3 && !strcmp(argv[1], "count"))
		return count(get(argv[2]));
	fputs("bpfcall: see the top of vmtests/bpfcall.c\n", stderr);
	return 2;
}
