#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# onramp-zds: what is written of pods, and what becomes of the directory that it is in.
# Whatever that is, no pod leaves but by a single file that goes.

load helpers.bash
load mesh.bash
load zds.bash

setup_file() {
	bystanders_up zds_files
}

setup() {
	bystanders_setup
}

teardown() {
	bystanders_teardown
}

teardown_file() {
	zds_node_down
}

GOOD=(namespace=default name=c service_account=account)

# Makes a pod's file not good: by what is in it, or what it is.
make_bad() { # NAME KIND
	local path uid long
	uid_of "$1"
	path=$WORKLOADS/$uid
	printf '%s\n' "${GOOD[@]}" >"$WORKLOADS/.bad"
	chmod 600 "$WORKLOADS/.bad"
	case $2 in
	owner) chown 1 "$WORKLOADS/.bad" ;;
	[0-7][0-7][0-7][0-7]) chmod "$2" "$WORKLOADS/.bad" ;;
	symlink)
		cp -p "$WORKLOADS/.bad" "$WORK/good"
		ln -sf "$WORK/good" "$WORKLOADS/.bad"
		;;
	fifo | device | directory)
		rm "$WORKLOADS/.bad"
		case $2 in
		fifo) mkfifo -m 600 "$WORKLOADS/.bad" ;;
		device) mknod -m 600 "$WORKLOADS/.bad" c 1 3 ;;
		directory) mkdir -m 600 "$WORKLOADS/.bad" ;;
		esac
		;;
	4097) printf '%s' "by=$(printf '%4045s' '')" >>"$WORKLOADS/.bad" ;;
	zero) printf '\0' >>"$WORKLOADS/.bad" ;;
	no-*) printf '%s\n' "${GOOD[@]/${2#no-}=*/by=me}" >"$WORKLOADS/.bad" ;;
	empty) : >"$WORKLOADS/.bad" ;;
	254)
		long=$(printf '%254s' '' | tr ' ' x)
		printf '%s\n' namespace=default "name=$long" service_account=account >"$WORKLOADS/.bad"
		;;
	ips) seq -f ip=10.77.1.%g 17 >>"$WORKLOADS/.bad" ;;
	*) echo "$2" >>"$WORKLOADS/.bad" ;;
	esac
	mv "$WORKLOADS/.bad" "$path"
}

# What is wrong is told once, and nobody minds; c is the last, the others have not begun.
bad() { # KIND...
	local kind n=0 name uid rules
	rules=$(entries mesh_pods)
	for kind; do
		n=$((n + 1))
		name=bad-$n
		[ $n != $# ] || name=c
		kpod_named $name
		make_bad $name "$kind"
	done
	for kind; do
		name=c
		[ $((n -= 1)) = 0 ] || name=bad-$(($# - n))
		becomes $name "pending bad-file" || { echo "$kind" >&2; return 1; }
		uid_of $name
		touch -h "$WORKLOADS/$uid"
	done
	nobody_left
	is "$(entries mesh_pods)" "$rules"
	goes_at_all direct c
	for name in c "$WORK"/uid-bad-*; do
		name=${name##*/uid-}
		uid_of "$name"
		logged_once "event=bad-file uid=$uid "
		is "$(told_count zt "add $uid")" 0
		rm -r "${WORKLOADS:?}/$uid"
	done
	nobody_left
	for name in "$WORK"/uid-bad-*; do
		is "$(status "${name##*/uid-}")" ""
		rm "$name"
	done
	is "$(entries mesh_pods)" "$rules"
}

@test "a file of another owner, mode or kind is bad, and nobody minds" {
	bad owner 0640 0604 0400 0700 4600 fifo directory device symlink
}

@test "a text that is too long, or not of known keys and values, is bad" {
	bad 4097 zero empty no-namespace no-name no-service_account 254 ips \
		unknown=key nothing =value NAME=c name=c namespace=other name= "service_account=a b" \
		ip= ip=10.77.1 ip=host bypass_inbound=yes dns= dns=TRUE "name =c" "by this"
}

@test "what is as long as it may be is good: 4 KiB, names of 253 characters, 16 addresses" {
	uid_of c
	long=$(printf '%253s' '' | tr ' ' n)
	addresses=$(seq -f ip=10.77.1.%g 1 16)
	text="namespace=$long name=$long service_account=account $addresses by="
	# shellcheck disable=SC2086 # lines
	workload_text c $text$(printf "%$((4095 - ${#text}))s" | tr ' ' b)
	is "$(stat -c %s "$WORKLOADS/$uid")" 4096
	enabled c
	retry 200 told_is zt "add $uid $long/$long/account" 1
	no_workload c
	retry 200 leaves_only c uid_netns
	# Comments, empty lines, no end of the last one.
	(umask 077 && printf '# by hand\n\n%s\n%s\n\n%s' "${GOOD[@]}" >"$WORKLOADS/.new")
	mv "$WORKLOADS/.new" "$WORKLOADS/$uid"
	enabled c
	# Written in place.
	no_workload c
	retry 200 leaves_only c uid_netns
	(umask 077 && printf '%s\n' "${GOOD[@]}" >"$WORKLOADS/$uid")
	enabled c
}

@test "all names but UIDs, as they are to be written, are not looked at" {
	uid_of c
	printf '%s\n' "${GOOD[@]}" >"$WORKLOADS/.new"
	chmod 600 "$WORKLOADS/.new"
	for name in ".$uid" "$uid.new" ".$uid.swp" no-uid "${uid^^}" "${uid//-/}" "pod$uid" "$uid-" \
		"${uid//-/_}" "{$uid}" "$uid "; do
		[ "$name" != "$uid" ]
		cp -p "$WORKLOADS/.new" "$WORKLOADS/$name"
	done
	mkdir "$WORKLOADS/lost+found"
	sleep 1.5
	is "$(status c)$(rule c)" ""
	is "$(log_count .)" 0
	nobody_left
	find "$WORKLOADS" -mindepth 1 -maxdepth 1 -name "*[^0-9a-f-]*" ! -name ztunnels -exec rm -r {} +
	rm -f "$WORKLOADS/${uid//-/}" "$WORKLOADS/$uid-"
}

@test "an enabled pod whose file is made bad stays, whatever else is started again" {
	uid_of a
	chmod 644 "$WORKLOADS/$uid"
	logged_once "event=bad-file uid=$uid "
	nobody_left
	workload a
	zds_kill
	workload_text a nonsense
	zds_up
	log_mark
	logged "event=snapshot"
	nobody_left
	zt_kill KILL zt
	zt_up zt
	del_before=0
	retry 200 told_is zt "add $uid default/a/account" 1
	nobody_left
	workload a
	nobody_left
	log_mark
	# It leaves when the file goes, good or not.
	workload_text a nonsense
	logged_once "event=bad-file uid=$uid "
	no_workload a
	retry 200 leaves_only a uid_netns
	goes_at_all direct a
}

# One whose system calls are not all as they should be.
zds_up_injected() { # STRACE-WORD...
	printf '%s\n' '#!/bin/bash' "exec strace -qqD -o /dev/null $* ${ZDS:-$ROOT/build/onramp-zds} \"\$@\"" \
		>"$WORK/injected"
	chmod +x "$WORK/injected"
	ZDS=$WORK/injected zds_up
}

@test "a file that cannot be opened as onramp-zds starts is not gone" {
	uid_of a
	zds_kill
	zds_up_injected -P "$uid" -e inject=openat:error=EMFILE:when=1
	zt_has_snapshot
	nobody_left
	is "$(grep -c event=leaves "$WORK/zds")" 0
	cgroup_end "$CG/zds"
	mkdir "$CG/zds"
	zds_up
}

@test "files that come and go before they are read leave nothing behind" {
	before=$(zds_metric 'onramp_zds_pods{state="pending"}')
	zds_signals STOP
	python3 -ISc '
import os, sys, uuid
os.umask(0o077)
for n in range(500):
    new, path = (os.path.join(sys.argv[1], name) for name in (".new", str(uuid.uuid4())))
    open(new, "w").close()
    os.rename(new, path)
    os.unlink(path)
' "$WORKLOADS"
	zds_signals CONT
	workload c
	enabled c
	is "$(zds_metric 'onramp_zds_pods{state="pending"}')" "$before"
	no_workload c
	retry 200 leaves_only c uid_netns
	del_before=$((del_before + 1))
	nobody_left
}

@test "a file that goes as another comes again is not gone for as long as that was" {
	local uid files=()
	for name in a b; do
		uid_of $name
		files+=("$WORKLOADS/$uid")
	done
	python3 -ISc '
import os, sys, time
a, b = sys.argv[1:]
def away(file): os.rename(file, os.path.dirname(file) + "/.away-" + os.path.basename(file))
def back(file): os.rename(os.path.dirname(file) + "/.away-" + os.path.basename(file), file)
away(a)
time.sleep(0.2)
away(b)
back(a)
time.sleep(0.15)
os.utime(a)
time.sleep(0.08)
back(b)' "${files[@]}"
	nobody_left
	is "$(log_count "^event=leaves")" 0
}

@test "two pods by the same name are two" {
	workload_text c namespace=default name=a service_account=account
	enabled c
	uid_of c
	is "$(grep "^told add $uid" "$WORK/zt" | tail -n 1)" "told add $uid default/a/account"
	goes_at_all ztunnel c
	no_workload c
	retry 200 leaves_only c uid_netns
	del_before=$((del_before + 1))
	nobody_left
}
