// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The command line. Nothing here looks at what is loaded, or changes anything. */
#include "loader.h"
#include "usage.h" /* made from usage.txt: usage, commands, long_options, short_options */
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#define HYBRID "/sys/fs/cgroup/unified" /* cgroup2, where v1 is at the usual place */

_Static_assert(sizeof(commands) / sizeof(*commands) == COMMANDS, "as in usage.txt");

static void print_and_end(const char *text)
{
	fputs(text, stdout);
	if (fflush(stdout))
		die("standard output: %m");
	exit(0);
}

static enum command command_parse(const char *word)
{
	enum command command = 0;

	if (!word)
		die("no command: see onramp help");
	if (!strcmp(word, "--version"))
		print_and_end("onramp " VERSION "\n");
	if (!strcmp(word, "help") || !strcmp(word, "--help"))
		print_and_end(usage);
	while (command < COMMANDS && strcmp(word, commands[command])) command++;
	if (command == COMMANDS)
		die("%s: no such command: see onramp help", word);
	return command;
}

static void word_add(struct words *words, const char *word)
{
	if (words->count == WORDS)
		die("%s: is too much: give %d at most", word, WORDS);
	words->word[words->count++] = word;
}

static void wish_add(struct options *options, const char *text, __u32 rule)
{
	options->wishes[options->wish_count++] = wish_parse(text, rule);
}

static void option_read(struct options *options, int letter, const char *value)
{
	options->given[letter] = value ? value : "";
	switch (letter) {
	case 'b':
		wish_add(options, value, RULE_BYPASS);
		break;
	case 'e':
		wish_add(options, value, RULE_IN);
		break;
	case 'x':
		wish_add(options, value, RULE_OUT);
		break;
	case 'k':
		word_add(&options->kubelet_cgroups, value);
		break;
	case 't':
		word_add(&options->ztunnel_cgroups, value);
		break;
	case 'z':
		word_add(&options->ztunnels, value);
		break;
	}
}

/* What stands after the options, for commands that change rules. */
static void arguments_read(struct options *options, char **arguments)
{
	const __u32 rules[COMMANDS] = { [ENROLL] = RULE_IN, [EXCLUDE] = RULE_OUT };
	enum command command = options->command;
	bool changes_rules = command == ENROLL || command == EXCLUDE || command == FORGET;

	if (changes_rules && !*arguments)
		die("%s: give a CIDR or a pod's UID", commands[command]);
	if (!changes_rules && *arguments)
		die("%s: %s takes no such argument", *arguments, commands[command]);
	for (; *arguments; arguments++) wish_add(options, *arguments, rules[command]);
}

static void environment_read(struct options *options)
{
	const char *list = getenv("ZTUNNEL_IP");
	union addr address;
	char *ip;

	if (!list || !*list || options->ztunnels.count)
		return;
	for (ip = strtok(strdup(list), ","); ip; ip = strtok(NULL, ",")) {
		if (!addr_parse(ip, &address))
			die("ZTUNNEL_IP=%s: give ztunnel's IP addresses", list);
		word_add(&options->ztunnels, ip);
	}
	if (!options->ztunnels.count)
		die("ZTUNNEL_IP=%s: give ztunnel's IP addresses", list);
}

struct options options_read(int argc, char **argv)
{
	struct options options = {};
	int letter;

	options.command = command_parse(argv[1]);
	options.given['c'] = access(HYBRID, F_OK) ? "/sys/fs/cgroup" : HYBRID;
	options.given['p'] = "/sys/fs/bpf/onramp";
	options.wishes = calloc(argc, sizeof(*options.wishes));
	argv++;
	argc--;
	while ((letter = getopt_long(argc, argv, short_options, long_options, NULL)) > 0) {
		if (strchr("?:", letter) && !optopt)
			die("%s: no such option: see onramp help", argv[optind - 1]);
		if (letter == '?')
			die("-%c: no such option: see onramp help", optopt);
		if (letter == ':')
			die("-%c: gives no value: see onramp help", optopt);
		if (options.command != LOAD && !strchr("pv", letter))
			die("-%c: %s has no such option: see onramp help", letter,
			    commands[options.command]);
		option_read(&options, letter, optarg);
	}
	arguments_read(&options, argv + optind);
	environment_read(&options);
	return options;
}

bool is_in(const char *path, __u32 magic)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == magic;
}

__u64 cgroup_id(const char *path)
{
	struct stat status;

	if (stat(path, &status) || !S_ISDIR(status.st_mode) || !is_in(path, CGROUP2_SUPER_MAGIC))
		die("%s: give a cgroup2 directory", path);
	return status.st_ino;
}

__u32 netns_inode(const char *path)
{
	int netns = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;

	if (ioctl(netns, NS_GET_NSTYPE) != CLONE_NEWNET || fstat(netns, &status))
		die("%s: give a netns like /proc/PID/ns/net", path);
	close(netns);
	return status.st_ino;
}
