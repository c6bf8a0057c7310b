#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# The demo: real traffic through HAProxy, and the README's copy of what it says.

load helpers.bash

@test "the demo tells of each stage, without colour, and leaves nothing" {
	run -0 "$ROOT/scripts/demo"
	printf '%s\n' "$output" >"$BATS_FILE_TMPDIR/demo"
	grep -A 2 '^1' "$BATS_FILE_TMPDIR/demo" | grep -q 'reached from 10.77.1.2'
	has "ztunnel logs: port 15001: 10.77.1.2 wants 10.77.2.2:80"
	has "ztunnel logs: port 15006: $NODE_IP wants 10.77.2.2:80"
	run -1 grep -F $'\e' "$BATS_FILE_TMPDIR/demo"
	is "$(awk 'length > 80' "$BATS_FILE_TMPDIR/demo")" ""
	is "$(ip netns list | grep demo)" ""
	is "$(ls -d "$(cgroup2_mount)"/or*-demo 2>/dev/null)" ""
}

@test "the README shows what the demo says" {
	plain() { sed -E "s/40265[0-9]{5}/NETNS/; s/[[:space:]]+\$//" | sort; } # a hash has no order
	section README.md onramp | sed -n '/^Setting up a node/,/^```/p' | sed '$d' | plain >"$BATS_FILE_TMPDIR/readme"
	plain <"$BATS_FILE_TMPDIR/demo" | diff "$BATS_FILE_TMPDIR/readme" -
}

@test "interrupted, it cleans up as well" {
	"$ROOT/scripts/demo" >"$BATS_FILE_TMPDIR/cut" 2>&1 3>&- &
	demo=$!
	retry 400 grep -q '^2' "$BATS_FILE_TMPDIR/cut"
	kill -TERM "$demo"
	wait "$demo" || :
	is "$(ip netns list | grep demo)" ""
	is "$(ls -d "$(cgroup2_mount)"/or*-demo 2>/dev/null)" ""
}

@test "not root, it says what to do" {
	run -1 setpriv --reuid=65534 --clear-groups "$ROOT/scripts/demo"
	has "sudo make demo"
}
