#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# Every way that a program can open a connection (sockets.c), in both modes and
# families: all are captured, reach their own destination's name through the
# proxy, see the peer that they dialled and their pod's address, which is what the
# proxy sees. What is not TCP reaches the peer that it dialled. The table of
# bpf/README.md is made here.

load helpers.bash

export SOCKETS=$ROOT/build/sockets

setup_file() {
	node_up sockets
	ztunnel_up # by IPv4; see below for IPv6
	pod_up client 10.77.1.2
	pod_up other 10.77.3.3 # not enrolled: where some kinds' processes go
	pod_up server 10.77.2.2
	dual_stack client:1 server:2 other:3 ztunnel:9
	serve ztunnel "$ZTUNNEL_POD_IP6" 15001
	serve server :: 80
	for address in 10.77.2.2 fd00:77::2; do
		launch "$WORK/others-$address" pod server "$SOCKETS" serve "$address" 80
	done
	pod client sh -c 'echo 0 0 >/proc/sys/net/ipv4/ping_group_range'
	mkdir "$CG/ztunnel/in-client"
	OTHER_NETNS=/run/netns/$RUN-other
	export OTHER_NETNS
	: >"$BATS_FILE_TMPDIR/cells"
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# What became of each kind of socket that dials ADDRESS; one cell of the table.
cells() { # COLUMN ADDRESS
	local kind status seen cell bad=0 shown=$2 own=10.77.1.2 from
	[[ $2 != *:* ]] || shown="[$2]" own="[fd00:77::1]"
	while read -r kind status seen; do
		case "$status:$seen " in
		77:*) cell=- ;;
		0:*"local="*":15001 "*"orig"[46]"=$shown:80"*)
			cell=captured from=${seen#*from=}
			from=${from%% *}
			[[ $seen == "dialled=$shown:80 from=$own:"*" peer=$from "* ||
				$seen == "dialled=$shown:80 from=$own:"*" peer=[::ffff:$own]:${from##*:} "* ]] ||
				cell="captured*"
			;;
		0:"dialled=$shown:80 "*"local=$shown:80 "*) cell=passed ;;
		*) cell="?" ;;
		esac
		printf '%s %s %s\n' "$kind" "$1" "$cell" >>"$BATS_FILE_TMPDIR/cells"
		case $kind:$cell in
		sctp:passed | udp:passed | udp-lite:passed | ping:passed | raw:passed) ;;
		mptcp:- | io-uring:- | smc:- | sctp:- | udp-lite:-) ;; # not in every kernel
		ipv6-only:-) [[ $1 == *IPv4 ]] ;;
		mptcp:"captured*") ;; # its names do not come to BPF
		sctp:* | udp:* | udp-lite:* | ping:* | raw:*) false ;;
		*:captured) ;;
		*) false ;;
		esac || { echo "$1 $kind: $cell: $seen" >&2; bad=$((bad + 1)); }
	done < <(pod client "$SOCKETS" all "$2" 80)
	is "$bad" 0
	is "$(grep -c " $1 " "$BATS_FILE_TMPDIR/cells")" 25
}

@test "node mode: IPv4 and IPv6" {
	node_mode -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24
	cells node,IPv4 10.77.2.2
	cells node,IPv6 fd00:77::2
}

@test "in-pod mode: IPv4 and IPv6" {
	launch "$WORK/in-client" run_in ztunnel/in-client client "$TCP" serve :: 15001
	in_pod_mode
	cells in-pod,IPv4 10.77.2.2
	cells in-pod,IPv6 fd00:77::2
}

@test "a socket of a pod that is not enrolled is left alone, whose process holds it" {
	node_mode -e 10.77.1.0/24
	for kind in netns-changed-after passed-to-other-netns; do
		OTHER_NETNS=/run/netns/$RUN-client run -0 pod other "$SOCKETS" "$kind" 10.77.2.2 80
		has "dialled=10.77.2.2:80 " "from=10.77.3.3:" "local=[::ffff:10.77.2.2]:80 "
	done
}

@test "the table of bpf/README.md is what was seen" {
	awk '
		{ cell[$1, $2] = $3 }
		!($1 in kinds) { kinds[$1]; kind[++rows] = $1 }
		END {
			columns = split("node,IPv4 node,IPv6 in-pod,IPv4 in-pod,IPv6", column)
			printf "| socket |"
			for (i = 1; i <= columns; i++) { name = column[i]; sub(",", ", ", name); printf " %s |", name }
			print "\n|---|---|---|---|---|"
			for (row = 1; row <= rows; row++) {
				printf "| %s |", kind[row]
				for (i = 1; i <= columns; i++) printf " %s |", cell[kind[row], column[i]]
				print ""
			}
		}' "$BATS_FILE_TMPDIR/cells" >"$ROOT/build/sockets.md"
	sed 's/^/# /' "$ROOT/build/sockets.md" >&3
	# What this kernel does not have, it may still show.
	section bpf/README.md Sockets | grep '^|' >"$WORK/readme"
	is "$(wc -l <"$WORK/readme")" "$(wc -l <"$ROOT/build/sockets.md")"
	paste -d '\n' "$WORK/readme" "$ROOT/build/sockets.md" | awk -F '|' '
		NR % 2 { split($0, shown, "|"); next }
		{ for (i = 2; i < NF; i++) if ($i != shown[i] && !($i == " - " && i > 2)) bad = 1 }
		END { exit bad }'
}
