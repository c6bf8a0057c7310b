#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# make bench: one tiny round has every row, and a proxy that is told a wrong
# original destination, or none, ends it.

# bats file_tags=native,alone
load helpers.bash

ours() { # netns and cgroups of any bench
	ip netns list | awk '{ print $1 }' | grep -e '-bench-' | sort
	ls -d "$(cgroup2_mount)"/or*-bench 2>/dev/null || :
}

setup_file() {
	export OUT=$BATS_FILE_TMPDIR
	ours >"$OUT/before"
	ROUNDS=1 MS=$((ONRAMP_TEST_VM ? 5 : 20)) "$ROOT/scripts/bench" >"$OUT/said" 2>"$OUT/errors" 3>&- || {
		cat "$OUT/errors" >&2
		return 1
	}
}

teardown() {
	node_down # of the last test
}

@test "every row has every figure, and all but the floors a ratio" {
	run -0 jq -r '.rows | map(.name) | sort | join(" ")' "$OUT/bench.json"
	is "$output" "direct direct6 idle idle-in-pod idle-plain in-pod in-pod-v6only in-pod6 iptables \
istio nftables node-direct node-idle node-mode node-unloaded unloaded v6only"
	run -0 jq '[.rows[] | . as $row | ("connect_p50", "connect_p99", "short", "short2", "cpu",
			"latency", "throughput", "getsockopt") | $row[.]
		| select(.median > 0 and ($row.floor == "-" or .ratio.median > 0))] | length' \
		"$OUT/bench.json"
	is "$output" $((17 * 8))
	run -0 jq '.goals | map(select(.reached | type == "boolean")) | length' "$OUT/bench.json"
	is "$output" 19
}

@test "the kernel's accounting: each program once or some times a connection, none per round trip" {
	run -0 jq -r '.programs[] | select(.name == "connect4" or .name == "getsockopt")
		| "\(.row) \(.name) \(.runs)"' "$OUT/bench.json"
	is "$(sort <<<"$output")" "$(printf '%s\n' 'in-pod connect4 1' 'in-pod getsockopt 1' \
		'node-mode connect4 1' 'node-mode getsockopt 1')"
	run -0 jq -r '.programs[] | select(.name == "sock_ops") | .row' \
		"$OUT/bench.json"
	is "$output" node-mode # in in-pod mode only while ztunnel is told of pods
	run -0 jq '.programs | map(select(.name | test("exec|rmdir") | not)
		| .runs_in_trips < 50 and .trips >= 250) | length > 4 and all' "$OUT/bench.json"
	is "$output" true
}

@test "the table fits, and says of each goal whether it is reached" {
	is "$(awk 'length > 80' "$OUT/said")" ""
	is "$(grep -c 'reached$' "$OUT/said")" 19
}

@test "it leaves nothing" {
	is "$(ours)" "$(cat "$OUT/before")"
}

@test "a proxy that is told a wrong original destination, or none, or one too many, is an error" {
	node_up wrong
	pod_up client 10.77.1.2
	ip netns exec "$RUN-client" nft -f - <<-END
		table ip nat {
			chain output {
				type nat hook output priority -100;
				tcp dport 80 redirect to :15001
			}
		}
	END
	mkdir "$CG/proxy"
	launch "$WORK/proxy" run_in proxy client "$ROOT/build/bench" proxy 15001
	dial() { pod client "$ROOT/build/bench" client -n 3 "$@"; }
	run -0 dial -o 10.77.2.2:80 10.77.2.2 80
	run -1 dial -o 10.77.2.2:81 10.77.2.2 80
	has "told [::ffff:10.77.2.2]:80 "
	run -1 dial -o 10.77.2.3:80 10.77.2.2 80
	run -1 dial 10.77.2.2 80
}

@test "bench-ztunnel without a ztunnel: one line that says what to give" {
	run -1 env -u ZTUNNEL "$ROOT/scripts/bench-ztunnel"
	is "$output" "bench-ztunnel: nothing: give ZTUNNEL=, the path of a ztunnel"
	ZTUNNEL=/none run -1 "$ROOT/scripts/bench-ztunnel"
	is "$output" "bench-ztunnel: /none: give ZTUNNEL=, the path of a ztunnel"
}
