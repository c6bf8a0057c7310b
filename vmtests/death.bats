#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone,once
# The loader dies at any of its system calls, or any of them fails: strace kills
# it on entry to the N-th call of a name, or lets that call fail. Then the node
# is as before or as after, and the next load or unload makes it whole.
#
# Each test tries some of its command's calls, evenly spread. ONRAMP_TEST_DEATHS:
# how many, or all; each fails once then for each of the errors.

load helpers.bash

V4=10.77.2.2 V6=::ffff:10.77.2.2 # dialled by connect4 and by connect6
ERRORS=(ENOMEM EPERM E2BIG ENOSPC)
# Not to fail: brk has no errno, and without the others the C library does not start.
NOT_OURS='brk|arch_prctl|mprotect'

setup_file() {
	# An emulated machine takes seconds for a load.
	DEATHS=${ONRAMP_TEST_DEATHS:-${ONRAMP_TEST_VM:+1}}
	export DEATHS=${DEATHS:-8}
	node_up death
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	setup
	for command in before after unload; do
		[ "$command" != unload ] || { clean; before; } # as each death of it begins
		INJECT=(strace -qq -o "$WORK/$command-trace")
		"$command"
		INJECT=()
		[ "$command" != unload ] || break
		pins >"$WORK/$command-pins"
		rules >"$WORK/$command-rules"
		settings >"$WORK/$command-settings"
	done
	echo "# $DEATHS calls of each command" >&3
}

teardown_file() {
	node_down
}

setup() {
	INJECT=()
	tried=0 states=0
}

# The commands under test: a load, one that upgrades it, and the end.
loads() {
	"${INJECT[@]}" "$ONRAMP" load -z "$ZTUNNEL_POD_IP" -t "$CG/ztunnel" -p "$PIN" -c "$CG" \
		-n "/run/netns/$RUN-node" "$@"
}
before() { loads -e 10.77.1.0/24; }
after() { loads -e 10.77.4.0/24 -d; }
unload() { "${INJECT[@]}" "$ONRAMP" unload -p "$PIN"; }

# What each of them begins with.
clean() { [ ! -e "$PIN" ] || onramp unload; }
fresh() {
	if pins | cmp -s - "$WORK/before-pins" && rules | cmp -s - "$WORK/before-rules" &&
		settings | cmp -s - "$WORK/before-settings"; then return; fi
	before
	[[ $(onramp rules) != *10.77.4.0* ]] || onramp forget 10.77.4.0/24
}

# The command's calls, each by its name and number, as many as wanted. A run of
# reads is one: the kernel's BTF comes in 1,300 pieces. A program's load is two,
# for libbpf tries again.
calls_of() { # COMMAND [EXCEPT]
	awk -F '(' -v except="^(exec|exit${2:+|$2})" '/^[a-z0-9_]+\(/ {
			n[$1]++
			if ($1 !~ except && ($1 != "read" || last != "read"))
				print $1, n[$1] (/PROG_LOAD/ ? ".." n[$1] + 1 : "")
			last = $1
		}' "$WORK/$1-trace" |
		awk -v most="$DEATHS" '{ line[NR] = $0 } END {
			if (most == "all" || most > NR) most = NR
			# The last third of a load attaches: one alone falls before its end.
			for (i = 1; i <= most; i++) print line[int((i - 0.03) * NR / most) + 1]
		}' >"$WORK/calls"
}

# Runs it with that to happen at that call.
with() { # NAME NUMBER WHAT COMMAND
	tried=$((tried + 1))
	at="$4: $3 at $1 $2"
	INJECT=(strace -qq -o /dev/null -e "inject=$1:$3:when=$2")
	run "$4"
	INJECT=()
}

dies() { # NAME NUMBER COMMAND: killed on entry; the kernel does not make the call
	with "$1" "$2" signal=KILL "$3"
	# It may end before, for it makes more calls where more programs run (kubelet.c).
	[ "$status" = 137 ] || [ "$status" = 0 ] || wrong "status $status: $output"
}

wrong() {
	echo "$at: $*" >&2
	pins >&2
	return 1
}

# What there is to see of onramp.
pins() {
	[ ! -d "$PIN" ] || find "$PIN" -printf '/%P\n' | sort
}

# Not by the loader, which may not have made all; raw, for the BTF may not be there.
rules() { raw mesh_rules; }
settings() { raw settings; }
raw() { # MAP
	"$BPFTOOL" -j map dump pinned "$PIN/maps/$1" | grep -oE '"(key|value)":\["[^]]*'
}

links() {
	printf 'link show pinned %s\n' "$PIN"/links/* "$PIN"/{metrics,pods} |
		"$BPFTOOL" -j batch file - | grep -oE '"(id|prog_id|error)":[^,}]*'
}

state() {
	pins
	[ ! -d "$PIN" ] || { rules; settings; links; }
}

attached() {
	"$BPFTOOL" -j link list |
		{ grep -oE "\"cgroup_id\":($(cgroup_id .)|$(cgroup_id ztunnel))[,}]" || :; } | wc -l
}

# Whether the client's connection comes out at ztunnel, which knows the way.
captured() { # ADDRESS
	run pod client "$TCP" dial "$1" 80
	case $status$output in
	0*"local=$ZTUNNEL_POD_IP:15001 "*"orig4=10.77.2.2:80 "*) ;;
	0*"local=10.77.2.2:80 "*) return 1 ;;
	*) wrong "dialled $1: $output"; exit 1 ;;
	esac
}

# Captured where connect is linked and knows ztunnel, which is only when all else is
# in place.
sane() {
	local v4='' v6='' knows
	knows=$(settings | grep value | grep -vE '\[("0x00",){32}' || :) # a ztunnel
	if captured $V4; then v4=yes; fi
	if captured $V6; then v6=yes; fi
	[ -z "$v4$v6" ] ||
		is "$(pins | grep -vE '/(new|connect.)$')" "$(grep -v /connect "$WORK/before-pins")" ||
		wrong "captured"
	[ -z "$knows" ] || [ -n "$v4" ] || [ ! -e "$PIN/links/connect4" ] || wrong "IPv4 passes"
	[ -z "$knows" ] || [ -n "$v6" ] || [ ! -e "$PIN/links/connect6" ] || wrong "IPv6 passes"
}

both_captured() {
	captured $V4 || wrong "IPv4 passes"
	captured $V6 || wrong "IPv6 passes"
}

whole() { # STATE: before or after
	is "$(pins)" "$(cat "$WORK/$1-pins")" || wrong "pins"
	is "$(rules)" "$(cat "$WORK/$1-rules")" || wrong "rules"
	is "$(settings)" "$(cat "$WORK/$1-settings")" || wrong "settings"
	is "$(attached)" "$(grep -cE '/links/(bind|conn|getp|gets|sock|send|recv)' "$WORK/$1-pins")" ||
		wrong "links"
	both_captured
}

nothing() {
	[ ! -e "$PIN" ] || wrong "pins are left"
	is "$(attached)" 0 || wrong "links are left"
	! captured $V4 || wrong "IPv4 is captured"
	! captured $V6 || wrong "IPv6 is captured"
}

# The order saves loads: each test leaves what the next one begins with.

one_line() {
	local told=${output//"$WORK"/} # how long that is depends on the process' number
	is "$status" 1 || wrong "status $status: $output"
	is "${#lines[@]}" 1 || wrong "lines: $output"
	[[ $output == "onramp: "*[^\ ] ]] || wrong "not ours, or not all: $output"
	[ ${#told} -le 140 ] || wrong "long: $output"
}

# Lets each call fail: the command fails and changes nothing, or can do without.
each_fails() { # BEGINNING COMMAND END
	local errors name number error failures=0
	calls_of "$2" "$NOT_OURS"
	"$1"
	state >"$WORK/state"
	while read -r name number; do
		errors=("${ERRORS[tried % ${#ERRORS[@]}]}")
		[ "$DEATHS" != all ] || errors=("${ERRORS[@]}")
		for error in "${errors[@]}"; do
			with "$name" "$number" "error=$error" "$2"
			if [ "$status" = 0 ]; then
				is "$(grep -v '^onramp: warning: ' <<<"$output")" ""
				$3
				"$1"
				state >"$WORK/state"
			else
				failures=$((failures + 1))
				one_line
				is "$(state)" "$(cat "$WORK/state")" || wrong "changed: $output"
			fi
		done
	done <"$WORK/calls"
	echo "# $tried calls failed, the command $failures times" >&3
}

@test "a call of a load fails: said so, and nothing is left; or it can do without" {
	each_fails clean before "whole before"
	nothing
}

repaired() { # by load and by unload in turn
	if [ $((states % 2)) = 1 ]; then
		before || wrong "load"
		whole before
	else
		clean
		nothing
	fi
}

# Kills each call: sane then, and each new state is made whole again.
each_dies() { # BEGINNING COMMAND
	local seen='' name number
	calls_of "$2"
	while read -r name number; do
		"$1"
		dies "$name" "$number" "$2"
		sane
		[ "$(pins)" != "$seen" ] || continue
		seen=$(pins) states=$((states + 1))
		repaired
	done <"$WORK/calls"
	echo "# $tried deaths, $states states" >&3
}

@test "load dies on a clean node: captured only when all is in place; load or unload repairs" {
	each_dies clean before
}

# In the background, all the while: a connection every so often, a line for each.
dial_on() {
	while sleep 0.1; do echo; done |
		pod client "$TCP" steps $V4 80 >"$WORK/dialled" 3>&- &
}

dialled_all() { # and none came out at the server, or without the way to it
	xargs kill <"$CG/client/cgroup.procs"
	wait || :
	run grep -v "local=$ZTUNNEL_POD_IP:15001 .*orig4=10.77.2.2:80 " "$WORK/dialled"
	is "$output" ""
	echo "# $(wc -l <"$WORK/dialled") connections meanwhile" >&3
}

@test "a call of an upgrade fails: said so, and all is as before; or it can do without" {
	fresh
	dial_on
	each_fails fresh after "whole after"
	dialled_all
}

@test "unload dies: load or unload repairs" {
	each_dies fresh unload
}

# What a killed upgrade may leave: nothing lost, nothing strange, all captured.
between() {
	run comm -23 "$WORK/before-pins" <(pins)
	is "$output" "" || wrong "lost"
	run comm -13 "$WORK/after-pins" <(pins | grep -v links/new)
	is "$output" "" || wrong "strange"
	rules | cmp -s - "$WORK/before-rules" || is "$(rules)" "$(cat "$WORK/after-rules")" ||
		wrong "rules"
	settings | cmp -s - "$WORK/before-settings" ||
		is "$(settings)" "$(cat "$WORK/after-settings")" || wrong "settings"
	both_captured
}

@test "an upgrade dies: captured all the while; load repairs" {
	calls_of after
	fresh
	dial_on
	while read -r name number; do
		fresh
		untouched=$(state)
		dies "$name" "$number" after
		between
		[ "$(state)" != "$untouched" ] || continue
		states=$((states + 1))
		after || wrong "load"
		whole after
	done <"$WORK/calls"
	dialled_all
	echo "# $tried deaths, $states of them half-way" >&3
}

@test "a call of unload fails: said so, and the next unload finishes" {
	calls_of unload "$NOT_OURS"
	while read -r name number; do
		[ -e "$PIN" ] || before
		with "$name" "$number" "error=${ERRORS[tried % ${#ERRORS[@]}]}" unload
		[ "$status" = 0 ] || { one_line; clean; }
		nothing
	done <"$WORK/calls"
	echo "# $tried calls failed" >&3
}
