#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# The transcript of onramp-zds, as it stands in scripts/README.md, on a node of our own.

load helpers.bash
load mesh.bash
load zds.bash

setup_file() {
	zds_node_up readme_zds
	rm -r "$STATE" # a new node's: nothing is there yet
	export ZDS_SOCKET=$WORK/ztunnel/ztunnel.sock
	section scripts/README.md onramp-zds |
		awk '/^```console$/ { on = 1; next } /^```$/ { on = 0 } on' >"$WORK/transcript"
	# The first UID is ztunnel's pod's, the other one's the pod that joins.
	mapfile -t uids < <(grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' "$WORK/transcript" | uniq)
	echo "${uids[0]}" >"$WORK/uid-zt"
	echo "${uids[1]}" >"$WORK/uid-cart"
	kpod_up zt 10.77.0.8
	kpod_up cart 10.77.1.2
	cat >"$WORK/prelude" <<-END
		set -e
		onramp() { '$ONRAMP' "\$@" -p '$PIN' -c '$CG' -n '/run/netns/$RUN-node' -k '$CG/zds'; }
		onramp-zds() {
			echo \$BASHPID >'$CG/zds/cgroup.procs'
			exec '$ROOT/build/onramp-zds' -p '$PIN' -s '$ZDS_SOCKET' -w '$WORKLOADS' >'$WORK/zds' 2>&1 3>&-
		}
	END
}

teardown_file() {
	zds_node_down
}

@test "what it shows is what is seen" {
	sed -n "s#^\# ##p" "$WORK/transcript" | sed "s#/var/lib/onramp/workloads#$WORKLOADS#g
		s#/var/run/ztunnel#${ZDS_SOCKET%/*}#" >"$WORK/commands"
	[ "$(wc -l <"$WORK/commands")" -ge 9 ]
	{
		cat "$WORK/prelude"
		sed '$d' "$WORK/commands"
	} >"$WORK/script"
	run -0 bash "$WORK/script"
	zt_up zt
	enabled cart
	run -0 bash -c "cd '$WORKLOADS'; $(tail -n 1 "$WORK/commands")"
	is "$output" "$(tail -n 1 "$WORK/transcript")"
}
