// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* onramp-zds: what BPF knows of pods, and is told of them, by the maps that are pinned. */
#include "inbound.h"
#include "zds_bpf.h"

#include "inbound_netns.skel.h"
#include <bpf/bpf.h>
#include <limits.h>
#include <sys/stat.h>

#define ZDS_BITS (POD_ZDS_IN | POD_ZDS_OUT | POD_DNS | POD_NO_DNS)

struct maps maps;

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

bool settings_read(struct settings *settings)
{
	__u32 key = 0;

	return !bpf_map_lookup_elem(maps.settings, &key, settings);
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
	maps.kubelets = map_open("kubelets", sizeof(__u64), sizeof(__u32));
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
	inbound_detach(config.pin_dir, "new"); /* of one that was killed */
	hooks_clean();
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

	for (; !bpf_map_get_next_key(maps.mesh_pods, last, &uid); last = &uid)
		if (bpf_rule(&uid))
			act(&uid);
	snprintf(path, sizeof(path), "%s/inbound", config.pin_dir);
	uid_each_file(path, act);
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
	__u64 net;
	int err = inbound_net(config.pin_dir, netns_fd, &net);

	if (err)
		return err;
	if (!ztunnel_find(cgroup, &ztunnel) && is_noted(net, ztunnel.place, ztunnel.place))
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
