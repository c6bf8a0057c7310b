// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: what BPF knows of pods, and is told of them, by the maps that are pinned. */
#include "inbound.h"
#include "zds.h"

#include "inbound_netns.skel.h"
#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

#define ZDS_BITS (POD_ZDS_IN | POD_ZDS_OUT | POD_DNS | POD_NO_DNS)

static struct {
	int settings;
	int mesh_pods;
	int uid_netns;
	int ztunnels;
	int starts;
	int stats;
	int listeners;
} maps;

static struct inbound_netns *skel; /* whose descriptors the template's instructions name */
static struct inbound_template template;
static struct ring_buffer *pod_events;
static struct stat loaded;	  /* the pin of `settings`, another by each load after an unload */
static unsigned long events_lost; /* as stats have it */

static int map_open(const char *name, size_t key, size_t value)
{
	struct bpf_map_info info = {};
	__u32 size = sizeof(info);
	char path[PATH_MAX];
	int map;

	snprintf(path, sizeof(path), "%s/maps/%s", config.pin_dir, name);
	map = bpf_obj_get(path);
	if (map < 0)
		die("%s: %s: onramp load first, or give -p", path, strerror(errno));
	if (bpf_obj_get_info_by_fd(map, &info, &size) || info.key_size != key ||
	    info.value_size != value)
		die("%s: another release's: load this release of onramp first", path);
	return map;
}

/* The object that what leads arrivals at pods is made of: on the maps that are there. */
static void object_open(void)
{
	char path[PATH_MAX];
	struct bpf_map *map;

	skel = inbound_netns__open();
	if (!skel)
		die("cannot open the BPF object: %s", strerror(errno));
	bpf_object__for_each_map (map, skel->obj) {
		if (strchr(bpf_map__name(map), '.'))
			continue; /* constants */
		snprintf(path, sizeof(path), "%s/maps/%s", config.pin_dir, bpf_map__name(map));
		if (access(path, F_OK) || bpf_map__set_pin_path(map, path))
			die("%s: %s: load this release of onramp first", path, strerror(errno));
	}
	errno = -bpf_object__load(skel->obj);
	if (errno == EPERM)
		die("cannot load: %s: give " CAPABILITIES, strerror(errno));
	if (errno)
		die("cannot load: %s: is another release of onramp loaded?", strerror(errno));
	errno = -inbound_open(&template, skel->obj);
	if (errno)
		die("inbound: %s", strerror(errno));
}

static bool settings_read(struct settings *settings)
{
	__u32 key = 0;

	return !bpf_map_lookup_elem(maps.settings, &key, settings);
}

/* Also where whoever was killed before has not come to it. */
static int ztunnels_say(void)
{
	struct settings settings;
	__u32 key = 0, sum = ztunnels_sum(maps.ztunnels);

	if (!settings_read(&settings))
		return -errno;
	if (settings.ztunnels == sum)
		return 0;
	settings.ztunnels = sum;
	return bpf_map_update_elem(maps.settings, &key, &settings, BPF_EXIST) ? -errno : 0;
}

static int on_pod_event(void *context, void *data, size_t size)
{
	const struct pod_event *event = data;

	(void)context;
	if (size < sizeof(*event))
		return 0;
	if (event->netns) {
		ztunnel_appeared(&event->uid);
		pod_appeared(&event->uid, event->pid);
	} else {
		pod_ended(&event->uid);
	}
	return 0;
}

/* How many events found no room, ever. */
static unsigned long lost_count(void)
{
	__u32 cpus = libbpf_num_possible_cpus();
	unsigned long sum = 0;
	struct stats stats;

	for (__u32 cpu = 0; cpu < cpus && cpu < STATS_CPUS; cpu++)
		if (!bpf_map_lookup_elem(maps.stats, &cpu, &stats))
			sum += stats.count[STAT_EVENTS_LOST];
	return sum;
}

static void on_pod_events(int fd)
{
	unsigned long lost;

	(void)fd;
	ring_buffer__consume(pod_events);
	lost = lost_count();
	if (lost == events_lost)
		return;
	log_event("events-lost", "count=%lu", lost - events_lost);
	events_lost = lost;
	pods_recall();
}

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	return config.verbose ? vfprintf(stderr, format, args) : 0;
}

void bpf_open(void)
{
	char path[PATH_MAX];
	struct settings settings;

	libbpf_set_print(print);
	maps.settings = map_open("settings", sizeof(__u32), sizeof(struct settings));
	maps.mesh_pods = map_open("mesh_pods", sizeof(union uid), sizeof(__u32));
	maps.uid_netns = map_open("uid_netns", sizeof(union uid), sizeof(struct uid_netns));
	maps.ztunnels = map_open("ztunnels", sizeof(__u64), sizeof(struct ztunnel));
	maps.starts = map_open("ztunnel_starts", sizeof(__u32), sizeof(__u64));
	maps.stats = map_open("stats", sizeof(__u32), sizeof(struct stats));
	maps.listeners = map_open("listeners", sizeof(struct listener_key), sizeof(__u64));
	if (!settings_read(&settings) || settings.mode != IN_POD_MODE)
		die("%s: not in in-pod mode: onramp load without -z", config.pin_dir);
	snprintf(path, sizeof(path), "%s/maps/settings", config.pin_dir);
	if (stat(path, &loaded))
		die("%s: %s", path, strerror(errno));
	object_open();
	pod_events = ring_buffer__new(map_open("pod_events", 0, 0), on_pod_event, NULL, NULL);
	if (!pod_events)
		die("pod_events: %s", strerror(errno));
}

void bpf_events_watch(void)
{
	static bool watched;

	if (watched)
		return;
	watched = true;
	events_lost = lost_count();
	watch(ring_buffer__epoll_fd(pod_events), on_pod_events);
}

void bpf_tick(void)
{
	struct settings settings;
	char path[PATH_MAX];
	struct stat status;

	snprintf(path, sizeof(path), "%s/maps/settings", config.pin_dir);
	if (stat(path, &status) || status.st_ino != loaded.st_ino)
		die("%s: was unloaded: to be started again", config.pin_dir);
	if (settings_read(&settings) && settings.mode == NODE_MODE)
		die("%s: is in node mode now, which needs no onramp-zds", config.pin_dir);
}

bool bpf_netns_of(const union uid *uid, __u64 *netns)
{
	struct uid_netns own = {};
	bool known = !bpf_map_lookup_elem(maps.uid_netns, uid, &own) || errno == ENOENT;

	*netns = own.netns;
	return known;
}

static __u32 word_read(const union uid *uid)
{
	__u32 word = 0;

	bpf_map_lookup_elem(maps.mesh_pods, uid, &word);
	return word;
}

__u32 bpf_rule(const union uid *uid)
{
	return word_read(uid) & ZDS_BITS;
}

int bpf_rule_write(const union uid *uid, __u32 bits)
{
	__u32 before = word_read(uid), after = (before & ~ZDS_BITS) | bits;
	int err = 0;

	if (after == before)
		return 0;
	if (after)
		err = bpf_map_update_elem(maps.mesh_pods, uid, &after, BPF_ANY);
	else
		err = bpf_map_delete_elem(maps.mesh_pods, uid);
	return err ? -errno : 0;
}

void bpf_each(void (*act)(const union uid *uid))
{
	union uid uid, *last = NULL;
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *pins;

	for (; !bpf_map_get_next_key(maps.mesh_pods, last, &uid); last = &uid)
		if (bpf_rule(&uid))
			act(&uid);
	snprintf(path, sizeof(path), "%s/inbound", config.pin_dir);
	pins = opendir(path);
	if (!pins)
		return;
	while ((entry = readdir(pins)))
		if (uid_of_file(entry->d_name, &uid))
			act(&uid);
	closedir(pins);
}

bool bpf_is_led(const char *uid, int netns_fd)
{
	return inbound_is_attached(config.pin_dir, uid, netns_fd);
}

int bpf_lead(const char *uid, int netns_fd, bool bypass, bool beside)
{
	return inbound_attach(&template, config.pin_dir, uid, netns_fd, bypass, beside);
}

/* Whether it is known that ztunnels at these places, first to last, listen in there. */
static bool is_noted(__u64 net, __u32 first, __u32 last)
{
	static const enum listener wanted[] = { OUTBOUND, INBOUND, HBONE };
	struct listener_key key = { .net = net };
	size_t found = 0;
	__u64 cookie;

	for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
		key.listener = wanted[i];
		for (key.place = first; key.place <= last; key.place++)
			if (!bpf_map_lookup_elem(maps.listeners, &key, &cookie))
				break;
		found += key.place <= last;
	}
	return found == sizeof(wanted) / sizeof(*wanted);
}

int bpf_note(int netns_fd)
{
	return inbound_note(config.pin_dir, netns_fd);
}

int bpf_note_of(int netns_fd, const char *cgroup)
{
	struct ztunnel ztunnel;
	struct stat status;
	__u64 id, net;
	int err = inbound_net(config.pin_dir, netns_fd, &net);

	if (err)
		return err;
	id = stat(cgroup, &status) ? 0 : status.st_ino;
	if (!bpf_map_lookup_elem(maps.ztunnels, &id, &ztunnel) &&
	    is_noted(net, ztunnel.place, ztunnel.place))
		return 0;
	return bpf_note(netns_fd);
}

bool bpf_is_served(int netns_fd)
{
	__u64 net;

	if (inbound_net(config.pin_dir, netns_fd, &net) || bpf_note(netns_fd))
		return false;
	return is_noted(net, 0, ZTUNNELS - 1);
}

void bpf_let_go(const char *uid)
{
	inbound_detach(config.pin_dir, uid);
}

/* A program of PIN_DIR/programs, and where it is attached. */
struct hook {
	const char *program;
	enum bpf_attach_type type;
};

static const struct hook ztunnels_own[] = {
	{ "getsockopt", BPF_CGROUP_GETSOCKOPT },
	{ "setsockopt", BPF_CGROUP_SETSOCKOPT },
	{ "bind4", BPF_CGROUP_INET4_BIND },
	{ "bind6", BPF_CGROUP_INET6_BIND },
};

static const struct hook of_listening = { "sock_ops", BPF_CGROUP_SOCK_OPS };

/* recvmsg first: what sendmsg sends elsewhere is to come back from where it was sent. */
static const struct hook of_dns[] = {
	{ "recvmsg4", BPF_CGROUP_UDP4_RECVMSG },
	{ "recvmsg6", BPF_CGROUP_UDP6_RECVMSG },
	{ "sendmsg4", BPF_CGROUP_UDP4_SENDMSG },
	{ "sendmsg6", BPF_CGROUP_UDP6_SENDMSG },
};

/* Where its link is pinned under a name. */
static void hook_path(const struct hook *hook, const char *name, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/links/%s-%s", config.pin_dir, hook->program, name);
}

/* Attaches a program to a cgroup, in the place of the link that is pinned under the name. */
static int hook_attach(const struct hook *hook, int cgroup, const char *name)
{
	char path[PATH_MAX], new[PATH_MAX];
	int program, link, err = 0;

	snprintf(path, sizeof(path), "%s/programs/%s", config.pin_dir, hook->program);
	program = bpf_obj_get(path);
	if (program < 0)
		return -errno;
	link = bpf_link_create(program, cgroup, hook->type, NULL);
	if (link < 0)
		err = -errno;
	close(program);
	if (err)
		return err;
	hook_path(hook, name, path);
	snprintf(new, sizeof(new), "%s/links/new-zds", config.pin_dir);
	unlink(new); /* of one that was killed */
	if (bpf_obj_pin(link, new) || rename(new, path))
		err = -errno;
	close(link);
	return err;
}

static bool is_attached(const struct hook *hook, __u64 cgroup, const char *name)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);
	char path[PATH_MAX];
	int link;

	hook_path(hook, name, path);
	link = bpf_obj_get(path);
	if (link < 0)
		return false;
	bpf_obj_get_info_by_fd(link, &info, &size);
	close(link);
	return info.cgroup.cgroup_id == cgroup;
}

static int hook_detach(const struct hook *hook, const char *name)
{
	char path[PATH_MAX];

	hook_path(hook, name, path);
	return unlink(path) && errno != ENOENT ? -errno : 0;
}

/* All of them, on a cgroup. */
static int hooks_attach(const struct hook *hooks, size_t count, const char *cgroup,
			const char *name)
{
	int directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	struct stat status;

	if (directory < 0)
		return -errno;
	if (fstat(directory, &status))
		err = -errno;
	for (size_t i = 0; i < count && !err; i++)
		if (!is_attached(&hooks[i], status.st_ino, name))
			err = hook_attach(&hooks[i], directory, name);
	close(directory);
	return err;
}

int bpf_dns(const char *uid, const char *cgroup, bool on)
{
	/* Where it is captured for all, these programs find nothing left to do, or to undo. */
	if (on && cgroup)
		return hooks_attach(of_dns, sizeof(of_dns) / sizeof(*of_dns), cgroup, uid);
	for (size_t i = sizeof(of_dns) / sizeof(*of_dns); i-- > 0;) hook_detach(&of_dns[i], uid);
	return 0;
}

/* The lowest place that no ztunnel has; ZTUNNELS: there is none. */
static __u32 place_free(void)
{
	bool taken[ZTUNNELS] = {};
	__u64 id, *last = NULL;
	struct ztunnel known;
	__u32 place = 0;

	for (; !bpf_map_get_next_key(maps.ztunnels, last, &id); last = &id)
		if (!bpf_map_lookup_elem(maps.ztunnels, &id, &known) && known.place < ZTUNNELS)
			taken[known.place] = true;
	while (place < ZTUNNELS && taken[place]) place++;
	return place;
}

static int ztunnel_joins(const char *cgroup)
{
	struct ztunnel ztunnel = {};
	struct stat status;
	__u64 id, never = 0;
	char name[16];
	int err;

	if (stat(cgroup, &status))
		return -errno;
	id = status.st_ino;
	if (bpf_map_lookup_elem(maps.ztunnels, &id, &ztunnel))
		ztunnel.place = place_free();
	if (ztunnel.place >= ZTUNNELS)
		return -EUSERS;
	/* First what makes its binds harmless, then that it passes. */
	snprintf(name, sizeof(name), "%u", ztunnel.place);
	err = hooks_attach(ztunnels_own, sizeof(ztunnels_own) / sizeof(*ztunnels_own), cgroup,
			   name);
	if (err)
		return err;
	if (!bpf_is_ztunnels(id)) {
		bpf_map_update_elem(maps.starts, &ztunnel.place, &never, BPF_ANY);
		if (bpf_map_update_elem(maps.ztunnels, &id, &ztunnel, BPF_NOEXIST))
			return -errno;
	}
	return ztunnels_say();
}

/* Without a loader's lock: a load may take a second, and what it renews does the same. */
int bpf_listening_noted(const char *cgroup, bool noted)
{
	struct ztunnel ztunnel;
	struct stat status;
	char place[16];
	__u64 id;

	if (stat(cgroup, &status))
		return -errno;
	id = status.st_ino;
	if (bpf_map_lookup_elem(maps.ztunnels, &id, &ztunnel))
		return -errno;
	snprintf(place, sizeof(place), "%u", ztunnel.place);
	if (noted)
		return hooks_attach(&of_listening, 1, cgroup, place);
	return hook_detach(&of_listening, place);
}

/* Not while a loader is at work, which gives places too: as it does, by the directory. */
int bpf_ztunnel_joins(const char *cgroup)
{
	char *copy = strdup(config.pin_dir);
	int directory, err;

	if (!copy)
		return -ENOMEM;
	directory = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (directory < 0)
		return -errno;
	err = flock(directory, LOCK_EX | LOCK_NB) ? -errno : ztunnel_joins(cgroup);
	close(directory);
	return err;
}

bool bpf_is_ztunnels(__u64 cgroup)
{
	struct ztunnel ztunnel;

	return !bpf_map_lookup_elem(maps.ztunnels, &cgroup, &ztunnel);
}

__u64 bpf_root_cgroup(void)
{
	struct settings settings;

	return settings_read(&settings) ? settings.root_cgroup : 0;
}

char *bpf_metrics(void)
{
	char path[PATH_MAX], *text = NULL;
	size_t size = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/metrics", config.pin_dir);
	file = fopen(path, "re");
	if (!file)
		return NULL;
	if (getdelim(&text, &size, '\0', file) < 0) {
		free(text);
		text = NULL;
	}
	fclose(file);
	return text;
}
