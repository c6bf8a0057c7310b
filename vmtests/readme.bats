#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# The README's commands, as they stand there, on a node of our own.

load helpers.bash

setup_file() {
	node_up readme
	ztunnel_up
	pod_up client 10.77.1.2
	# Every block marked sh, in order. Only where to attach and pin is ours.
	awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0 } on' "$ROOT/README.md" |
		sed "s#CGROUP BPFFS#$CG $WORK/bpf#; s#/sys/fs/bpf/onramp#$PIN#" >"$WORK/commands"
	cat >"$WORK/prelude" <<-END
		set -ex
		cd '$ROOT'
		bpftool() { '$BPFTOOL' "\$@"; }
		onramp() {
			set -- "\$@" -p '$PIN'
			[ "\$1" != load ] || set -- "\$@" -c '$CG' -n '/run/netns/$RUN-node'
			'$ONRAMP' "\$@"
		}
	END
}

teardown_file() {
	rm -rf "$WORK/bpf/onramp"
	node_down
}

@test "the loader's commands work, in their order" {
	grep '^onramp ' "$WORK/commands" >"$WORK/loader"
	[ "$(wc -l <"$WORK/loader")" -ge 6 ]
	run -0 bash "$WORK/prelude" # sanity: the prelude itself
	cat "$WORK/prelude" "$WORK/loader" >"$WORK/script"
	run -0 bash "$WORK/script"
	[ ! -e "$PIN" ]
}

# bats test_tags=once
@test "the commands for when something is wrong work, all of them" {
	reload -e 10.77.1.0/24
	section=$(sed -n '/^## When something is wrong/,/^## Beside/p' "$ROOT/README.md")
	grep '^|.*`' <<<"$section" | sed -n 's/.*| `\(.*\)` |$/\1/p' |
		sed "s#/sys/fs/bpf/onramp#$PIN#; s#/sys/fs/cgroup#$CG#; s#^scripts/[^ ]*#& -p $PIN#" >"$WORK/table"
	is "$(wc -l <"$WORK/table")" "$(grep -c '^|' <<<"$section" | awk '{ print $1 - 2 }')"
	cat "$WORK/prelude" "$WORK/table" >"$WORK/script"
	run -0 bash "$WORK/script"
	has "MESH " "connects redirected outbound" "ok    pods "
	[ ! -e "$PIN" ]
}

@test "bpftool's commands work, and capture" {
	grep -v '^onramp ' "$WORK/commands" | cat "$WORK/prelude" - >"$WORK/script"
	grep -q load-with-bpftool "$WORK/script"
	NODE_NETNS=/run/netns/$RUN-node run -0 bash "$WORK/script"
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
}

# bats test_tags=once
@test "the make targets that the README names are there" {
	while read -r target; do
		grep -q "^$target:" "$ROOT/Makefile"
	done < <(sed -n 's/^# make \([a-z]*\)$/\1/p' "$ROOT/README.md")
}
