// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * bpfcall - what bpftool cannot do, or not quickly.
 *
 *   bpfcall link CGROUP PROGRAM PIN  attaches a pinned connect4 program as a link
 *   bpfcall fill MAP VALUE           makes entries up until there is no room;
 *                                    prints how many, and what the kernel said
 *   bpfcall drain MAP                removes them
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

/* Keys differ in their last four bytes; a prefix has all of its bits. */
static int fill(int map, __u32 value_of_all, int command)
{
	struct bpf_map_info info = {};
	union bpf_attr attr = {
		.info = { .bpf_fd = map, .info_len = sizeof(info), .info = (__u64)&info }
	};
	char key[64] = "", value[256] = "";
	__u32 n = 0, done = 0, bits;
	bool again;

	if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr))
		return 1;
	bits = 8 * (info.key_size - sizeof(bits));
	if (info.type == BPF_MAP_TYPE_LPM_TRIE)
		memcpy(key, &bits, sizeof(bits));
	memcpy(value, &value_of_all, sizeof(value_of_all));
	attr = (union bpf_attr){ .map_fd = map, .key = (__u64)key };
	if (command == BPF_MAP_UPDATE_ELEM)
		attr.value = (__u64)value, attr.flags = BPF_NOEXIST;
	do {
		n++;
		memcpy(key + info.key_size - sizeof(n), &n, sizeof(n));
		again = !bpf(command, &attr);
		done += again;
	} while (n < 1 << 20 && (again || errno == EEXIST)); /* an LRU would never be full */
	printf("%u %s\n", done, strerrorname_np(errno));
	return 0;
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
		return fill(get(argv[2]), atoi(argv[3]), BPF_MAP_UPDATE_ELEM);
	if (argc == 3 && !strcmp(argv[1], "drain"))
		return fill(get(argv[2]), 0, BPF_MAP_DELETE_ELEM);
	fputs("bpfcall: see the top of vmtests/bpfcall.c\n", stderr);
	return 2;
}
