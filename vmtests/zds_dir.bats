#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# onramp-zds: what may become of the directory that is said in who is in the mesh, and of its
# neighbours. Nobody leaves by that; it is told once, and read again when it can be. And what
# onramp-zds does not start with. (What files in it are like: zds_files.bats.)

load helpers.bash
load mesh.bash
load zds.bash

setup_file() {
	bystanders_up zds_dir
}

setup() {
	bystanders_setup
}

teardown() {
	while umount "$WORKLOADS" 2>/dev/null || umount "$STATE/status" 2>/dev/null; do :; done
	chmod 755 "$STATE"
	chmod 700 "$WORKLOADS"
	bystanders_teardown
}

teardown_file() {
	zds_node_down
}

# Another onramp-zds, for a moment.
zds_once() { # OPTION...: which go before those here
	run_in node node timeout 20 "$ROOT/build/onramp-zds" -p "$PIN" -s "$WORK/other-socket" -w "$WORKLOADS" "$@"
}

starts_not() { # WHY OPTION...
	run -1 zds_once "${@:2}"
	is "$output" "onramp-zds: $1"
	[ ! -e "$WORK/other-socket" ]
}

# A single file that goes is its pod's leaving, as ever; and one that comes its joining.
as_ever() {
	local uid
	uid_of c
	workload c
	enabled c
	goes_at_all ztunnel c
	no_workload c
	becomes c ""
	retry 200 leaves_only c uid_netns
	del_before=$((del_before + 1))
	nobody_left
}

@test "others than root may write to DIR, or above it: it does not start" {
	local alone="give a directory that is root's alone"
	for mode in 720 702 1777; do
		for path in "$WORKLOADS" "$STATE"; do
			chmod $mode "$path"
			starts_not "$WORKLOADS: $path: others than root may write there: $alone"
			chmod 755 "$path"
		done
	done
	for path in "$WORKLOADS" "$STATE"; do
		chown 1 "$path"
		starts_not "$WORKLOADS: $path: others than root may write there: $alone"
		chown 0 "$path"
	done
	chmod 777 "$STATE/status"
	starts_not "$STATE/status: $STATE/status: others than root may write there: $alone"
	chmod 755 "$STATE/status"
	# By a link that others may lead elsewhere.
	mkdir -m 777 "$STATE/anybodys"
	ln -s "$STATE" "$STATE/anybodys/link"
	link=$STATE/anybodys/link/workloads
	starts_not "$link: $STATE/anybodys: others than root may write there: $alone" -w "$link"
	nobody_left
}

@test "others than root may write to DIR while it runs: nothing there counts, and nobody leaves" {
	uid_of a
	own=$uid
	uid_of c
	for path in "$WORKLOADS" "$STATE"; do
		log_mark
		chmod 777 "$path"
		touch "$WORKLOADS/.see" # it does not look above DIR by itself
		logged_once "event=unreadable .*$path: others than root may write there"
		# Who could make c be a.
		setpriv --reuid=65534 --clear-groups mv "$WORKLOADS/$own" "$WORKLOADS/$uid" || mv "$WORKLOADS/$own" "$WORKLOADS/$uid"
		sleep 1.5
		is "$(status c)$(rule c)" ""
		nobody_left
		is "$(told_count zt "add $uid")" 0
		mv "$WORKLOADS/$uid" "$WORKLOADS/$own"
		if [ "$path" = "$STATE" ]; then chmod 755 "$path"; else chmod 700 "$path"; fi
		logged_once "event=readable"
		nobody_left
	done
	is "$(log_count bad-file)" 0
	as_ever
}

@test "emptied: nobody leaves, nor where that takes a while" {
	cp -a "$WORKLOADS" "$STATE/before"
	for pause in 0 0.1; do
		log_mark
		python3 -ISc '
import os, sys, time
for entry in list(os.scandir(sys.argv[1])):
    if entry.is_file():
        os.unlink(entry)
        time.sleep(float(sys.argv[2]))' "$WORKLOADS" $pause
		logged_once "event=emptied .*nobody leaves"
		nobody_left
		cp -a "$STATE/before/." "$WORKLOADS"
		nobody_left
	done
	rm -r "$STATE/before"
	as_ever
}

@test "ztunnels that others than root may write to, or DIR while it has them: who is there is no ztunnel" {
	local mine
	kpod_named c
	uid_of c
	mine=$uid
	uid_of zt
	before=$(entries ztunnels)
	nobody() { setpriv --reuid=65534 --clear-groups "$@"; }
	chmod 711 "$WORKLOADS"
	chmod 777 "$WORKLOADS/ztunnels"
	nobody mv "$WORKLOADS/ztunnels/$uid" "$WORKLOADS/ztunnels/$mine"
	logged_once "event=bad-list dir=$WORKLOADS/ztunnels error=\"$WORKLOADS/ztunnels: others than root may write there\""
	sleep 1.2
	is "$(entries ztunnels)" "$before"
	mv "$WORKLOADS/ztunnels/$mine" "$WORKLOADS/ztunnels/$uid"
	chmod 700 "$WORKLOADS/ztunnels"
	# A list that is nobody's own, and a word that istio-cni is taken over.
	chmod 777 "$WORKLOADS"
	uid_of a
	program=$("$BPFTOOL" -j link show pinned "$PIN/inbound/$uid" | jq .prog_id)
	nobody sh -c "cd '$WORKLOADS' && : >.take-over && mv ztunnels .z && mkdir ztunnels && mv $uid ztunnels/$mine"
	sleep 1.2
	is "$(entries ztunnels)" "$before"
	is "$("$BPFTOOL" -j link show pinned "$PIN/inbound/$uid" | jq .prog_id)" "$program"
	rm "$WORKLOADS/.take-over"
	chmod 700 "$WORKLOADS" # which makes DIR root's again, and not that list
	sleep 1.2
	is "$(entries ztunnels)" "$before"
	mv "$WORKLOADS/ztunnels/$mine" "$WORKLOADS/$uid"
	rmdir "$WORKLOADS/ztunnels"
	mv "$WORKLOADS/.z" "$WORKLOADS/ztunnels"
}

unlink_all() { # NAME...: of these, in one go
	local uid name files=()
	for name; do
		uid_of "$name"
		files+=("$WORKLOADS/$uid")
	done
	python3 -ISc 'import os, sys; [os.unlink(file) for file in sys.argv[1:]]' "${files[@]}"
}

zds_anew() {
	zds_kill
	zds_up
	zt_has_snapshot
	log_mark
}

@test "emptied, and started again: nobody leaves, whether one file has come or all pods but one have ended" {
	log_mark
	unlink_all a b
	retry 200 log_count_is "event=emptied" 1
	workload c
	enabled c
	sleep 0.5 # DIR could have been noted by now
	zds_anew
	nobody_left
	no_workload c
	retry 200 leaves_only c uid_netns
	workload a
	# Only a and d, which ends.
	kpod_up d 10.77.1.4
	workload d
	workload b
	enabled d
	no_workload b
	retry 200 leaves_only b uid_netns
	log_mark
	unlink_all a d
	retry 200 log_count_is "event=emptied" 1
	kpod_end d
	retry 200 leaves_only d ""
	zds_anew
	sleep 1.2
	is "$(status a) $(rule a)" "enabled zds-in"
	goes_at_all ztunnel a
	kpod_down d
}

@test "replaced, and told by one that has stood by until then: nobody leaves when that is started again" {
	mkdir "$CG/zds2"
	mv "$WORKLOADS" "$STATE/aside"
	mkdir -m 700 "$WORKLOADS"
	cp -a "$STATE/aside/ztunnels" "$WORKLOADS"
	logged "event=replaced"
	workload c
	enabled c
	run_in zds2 node "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" -s "$ZDS_SOCKET" -w "$WORKLOADS" \
		>"$WORK/zds2" 2>&1 3>&- 9>&- &
	disown
	retry 100 grep -q "event=ready" "$WORK/zds2"
	sleep 1.2
	zds_kill
	retry 100 grep -q "event=snapshot" "$WORK/zds2"
	sleep 0.5
	cgroup_end "$CG/zds2"
	zds_up
	zt_has_snapshot
	log_mark
	nobody_left
	rm -r "$STATE/aside"
}

@test "replaced by another, and back: nobody leaves" {
	log_mark
	mv "$WORKLOADS" "$STATE/aside"
	mkdir -m 700 "$WORKLOADS" "$WORKLOADS/ztunnels"
	logged_once "event=replaced .*nobody leaves"
	nobody_left
	log_mark
	workload c # the only file there
	enabled c
	mv "$WORKLOADS" "$STATE/other"
	mv "$STATE/aside" "$WORKLOADS"
	nobody_left
	is "$(status c)" enabled
	workload c
	sleep 0.5
	as_ever
	rm -r "$STATE/other"
}

@test "deleted, made again: nobody leaves, were it the only one" {
	for files in "a b" a; do
		log_mark
		if [ "$files" = a ]; then
			no_workload b
			becomes b ""
			retry 200 leaves_only b uid_netns
		fi
		del_before=$(told_count zt del)
		rm -r "$WORKLOADS"
		logged_once "event=unreadable .*No such file or directory.*nobody leaves"
		is "$(status a)" enabled
		mkdir -m 700 "$WORKLOADS"
		logged_once "event=readable"
		sleep 1
		is "$(status a)" enabled
		goes_at_all ztunnel a
		is "$(told_count zt del)" "$del_before"
		workload a
		workload b
		mkdir -m 700 "$WORKLOADS/ztunnels"
		is_ztunnel zt
		enabled a b
	done
	# While it does not look: in the place of the other, with the same inode where it can be.
	no_workload b
	becomes b ""
	retry 200 leaves_only b uid_netns
	zds_signals STOP
	rm -r "$WORKLOADS"
	mkdir -m 700 "$WORKLOADS"
	zds_signals CONT
	sleep 1.5
	is "$(status a)" enabled
	goes_at_all ztunnel a
	workload b
	mkdir -m 700 "$WORKLOADS/ztunnels"
	is_ztunnel zt
	enabled b
	del_before=$(told_count zt del)
	nobody_left
	as_ever
}

@test "mounted over, unmounted, and another mounted in its place: nobody leaves" {
	log_mark
	mount -t tmpfs -o mode=700 none "$WORKLOADS"
	logged_once "event=replaced"
	nobody_left
	log_mark
	workload c
	enabled c
	umount "$WORKLOADS"
	sleep 0.5
	is "$(status c)" enabled
	# The only file of a DIR in whose place another one comes, which has its numbers.
	mount -t tmpfs -o mode=700 none "$WORKLOADS"
	workload c
	sleep 1.5
	zds_signals STOP
	umount "$WORKLOADS"
	mount -t tmpfs -o mode=700 none "$WORKLOADS"
	zds_signals CONT
	nobody_left
	is "$(status c)" enabled
	goes_at_all ztunnel c
	umount "$WORKLOADS"
	workload c
	sleep 1.5
	as_ever
}

@test "more events than there is room for: all is read; nobody leaves whose file is there" {
	most=$(sysctl -n fs.inotify.max_queued_events)
	sysctl -qw fs.inotify.max_queued_events=64
	zds_kill
	zds_up
	sysctl -qw fs.inotify.max_queued_events="$most"
	zt_has_snapshot
	kpod_up d 10.77.1.4
	workload d
	enabled d
	del_before=$(told_count zt del)
	log_mark
	zds_signals STOP
	python3 -ISc '
import os, sys
path = sys.argv[1] + "/."
open(path + "0", "w").close()
for i in range(200): os.rename(path + str(i), path + str(i + 1))
os.unlink(path + "200")' "$WORKLOADS"
	no_workload d
	workload c
	zds_signals CONT
	enabled c
	becomes d ""
	logged_once "overflow"
	retry 200 leaves_only d uid_netns
	kpod_down d
	del_before=$((del_before + 1))
	nobody_left
	as_ever
}

@test "no descriptors left, for DIR or for its files: nobody leaves; it is read when there are" {
	for left in 0 1; do
		log_mark
		descriptors_left $left
		workload a by=somebody
		workload c
		[ $left != 0 ] || logged_once "event=unreadable .*Too many open files.*nobody leaves"
		nobody_left
		is "$(status c)" ""
		is "$(log_count bad-file)" 0
		descriptors_left all
		enabled c # without another event
		[ $left != 0 ] || logged_once "event=readable"
		as_ever
	done
	# What cannot be done anew is done already.
	descriptors_left 1
	: >"$WORKLOADS/.take-over"
	logged "event=stays uid=.* reason=\"sk_lookup: Too many open files\""
	nobody_left
	rm "$WORKLOADS/.take-over"
	descriptors_left all
	nobody_left
	# A file that goes meanwhile is seen to afterwards.
	workload c
	enabled c
	descriptors_left 0
	no_workload c
	logged "event=unreadable"
	sleep 1.5
	is "$(status c)" enabled
	descriptors_left all
	becomes c ""
	retry 200 leaves_only c uid_netns
}

@test "a status directory that cannot be written: pods join and leave; it says so once, and says all when it can" {
	mount --bind "$STATE/status" "$STATE/status"
	mount -o remount,bind,ro "$STATE/status"
	log_mark
	workload c
	retry 200 rule_is c zds-in
	retry 200 becomes_way ztunnel c "$SERVER"
	logged_once "event=cannot-write"
	is "$(status c)" ""
	nobody_left
	mount -o remount,bind,rw "$STATE/status"
	enabled c
	mount -o remount,bind,ro "$STATE/status"
	no_workload c
	retry 200 becomes_way direct c "$SERVER"
	mount -o remount,bind,rw "$STATE/status"
	umount "$STATE/status"
	retry 200 leaves_only c uid_netns
	del_before=$((del_before + 1))
	nobody_left
}

@test "a fifo in the status directory, which nobody writes to or reads: nothing waits for it" {
	local name
	uid_of c
	for name in "$uid" ".$uid" .new; do mkfifo "$STATE/status/$name"; done
	zds_kill
	zds_up
	zt_has_snapshot
	workload c
	enabled c
	no_workload c
	retry 200 leaves_only c uid_netns
	log_mark
	del_before=$(told_count zt del)
	nobody_left
}

@test "a standard error that nobody reads: what cannot be said is left out, and all goes on" {
	mkfifo "$WORK/unread"
	exec 8<>"$WORK/unread"
	python3 -ISc '
import os
os.set_blocking(8, False)
try:
    while True: os.write(8, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(8, True)'
	zds_kill
	run_in zds node "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" -s "$ZDS_SOCKET" -w "$WORKLOADS" \
		2>"$WORK/unread" >/dev/null 3>&- 8>&- 9>&- &
	disown
	workload c
	enabled c
	goes_at_all ztunnel c
	no_workload c
	retry 200 leaves_only c uid_netns
	zds_kill
	# What it says last, too, is no reason to stay.
	run -1 run_in zds node timeout 5 "${ZDS:-$ROOT/build/onramp-zds}" -p "$WORK/none" 2>&8 3>&- 9>&-
	exec 8>&-
	zds_up
}

@test "what it does not start with is told in one line" {
	local begin="not like this: see onramp-zds help"
	starts_not "-x: $begin" -x
	starts_not "--nothing: $begin" --nothing
	starts_not "-p: $begin" -p
	starts_not "word: onramp-zds takes no such argument" word
	starts_not "$STATE/none: No such file or directory: give a directory that is root's alone" -w "$STATE/none"
	for where in 0 65536 host: 127.0.0.1: :80 ::1:80 '[::1:80' 1.2.3:80 80x; do
		starts_not "$where: give [ADDR:]PORT" -m "$where"
	done
	starts_not "127.0.0.1:9990: cannot listen there: give -m" -m 127.0.0.1:9990 # the first has it
	long=$WORK/$(printf '%100s' '' | tr ' ' s)
	starts_not "$long: too long for a socket: give -s" -s "$long"
	starts_not "$WORK/none/s: cannot listen there: give -s" -s "$WORK/none/s"
	starts_not "$WORK/none/maps/settings: No such file or directory: onramp load first, or give -p" -p "$WORK/none"
	PIN=$WORK/bpf/another load_from node -z "$ZTUNNEL_POD_IP"
	starts_not "$WORK/bpf/another: not in in-pod mode: onramp load without -z" -p "$WORK/bpf/another"
	PIN=$WORK/bpf/another onramp unload
	nobody_left
	run -0 "$ROOT/build/onramp-zds" --version
	has "onramp-zds "
	run -0 "$ROOT/build/onramp-zds" help
	has "usage: onramp-zds "
}
