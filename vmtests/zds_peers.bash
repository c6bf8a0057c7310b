# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What the suites of who dials onramp-zds share, beside zds.bash: two pods that may be
# ztunnels, zt and zt2, and peers there, which do what they are told; and three pods, pod,
# other and third, of which nobody is said when a test begins.

peers_up() { # NAME of the node
	zds_node_up "$1"
	kpod_up zt 10.77.0.9 9
	kpod_up zt2 10.77.0.10 10
	kpod_up pod 10.77.1.2 2
	kpod_up other 10.77.1.3 3
	kpod_up third 10.77.1.4
	zds_load
	is_ztunnel zt
	is_ztunnel zt2
	zds_up
}

# After each test. It fails where onramp-zds has ended in it.
peers_down() {
	local name uid cgroup ended=
	for name in zt zt2 pod; do
		peers_end "$name"
		cgroup_of "$name/zt"
		cgroup_end "$CG/$cgroup"
	done
	if ! zds_pid; then
		ended=yes
		cat "$WORK/zds" >&2
		zds_up
	fi
	for name in pod other third; do
		uid_of $name
		rm -f "$WORKLOADS/$uid"
		becomes $name ""
	done
	rm -f "$WORK"/go-*
	[ -z "$ended" ]
}

# All that these files of a log have: one event a line, key=value. (What bash adds to them,
# of what was killed, is not it.)
log_is_plain() { # FILE...
	local bad
	bad=$(cat "$@" | grep -vE '^event=[a-z-]+( [a-z_]+=([^" ]*|"[^"]*"))*$|helpers.bash: line ' || :)
	is "$bad" ""
}

# A ztunnel, or who would be one, that does so: see vmtests/zds-peer.
peer() { # NAME POD DO...
	local cgroup
	cgroup_of "$2/peers/$1"
	mkdir -p "$CG/$cgroup"
	launch "$WORK/$1" run_in "$2/peers/$1" "$2" "$ROOT/vmtests/zds-peer" "$ZDS_SOCKET" "${@:3}"
}

peers_end() { # POD
	local cgroup
	cgroup_of "$1/peers"
	cgroup_end "$CG/$cgroup"
}

# It was told so, or will be.
told() { # PEER PATTERN
	retry 200 grep -qE -- "$2" "$WORK/$1" && return
	echo "$1 was told:" >&2
	cat "$WORK/$1" >&2
	tail -n 20 "$WORK/zds" >&2
	return 1
}

# All that it was told, by the pods' names, up to the snapshot in alphabetic order.
all_told() { # PEER
	local uid name text
	text=$(grep -E '^(add|keep|del|snapshot|wrong)' "$WORK/$1")
	for name in pod other third; do
		uid_of $name
		text=${text//$uid/$name}
	done
	text=$(awk '{ print after * NR, $1, $2 } /^snapshot/ { after = 1 }' <<<"$text" |
		sort -k 1,1n -k 2 | sed 's/^[0-9]* //; s/ $//')
	echo "${text//$'\n'/, }"
}
