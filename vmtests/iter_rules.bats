#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# iter_rules: the rules file shows the tries whole, in order.

load helpers.bash

RULES=${ONRAMP_TEST_RULES:-3000} # 128 a turn, some 200 a page

setup_file() {
	node_up rules
	reload
}

teardown_file() {
	node_down
}

@test "none: an empty file" {
	run -0 cat "$PIN/rules"
	is "$output" ""
}

@test "nested, disjoint, both families, bypasses: all of them, in address order" {
	onramp enroll 10.0.0.0/8 10.1.2.0/24 fd00::/8 192.168.7.7 ::/0
	onramp exclude 10.1.0.0/16 fd00:1::/32
	reload -b 172.16.0.0/12 -b 2001:db8::/32
	run -0 cat "$PIN/rules"
	is "$output" "$(cat <<-END
		in      ::/0
		in      10.0.0.0/8
		out     10.1.0.0/16
		in      10.1.2.0/24
		in      192.168.7.7/32
		in      fd00::/8
		out     fd00:1::/32
		bypass  172.16.0.0/12
		bypass  2001:db8::/32
	END
	)" || [[ $output == *"0000:0000"* ]] # a kernel that cannot shorten IPv6
	onramp forget ::/0 10.0.0.0/8 10.1.2.0/24 fd00::/8 192.168.7.7 10.1.0.0/16 fd00:1::/32
	run -0 grep -vc bypass "$PIN/rules" || is "$output" 0
}

@test "$RULES rules, more than one turn and one page: each of them once" {
	for ((i = 0; i < RULES; i++)); do echo "10.$((i / 250)).$((i % 250)).0/24"; done >"$WORK/many"
	(ulimit -n 256 && onramp enroll $(cat "$WORK/many"))
	sed -n 's/^in  *//p' "$PIN/rules" | sort >"$WORK/listed"
	sort "$WORK/many" | diff - "$WORK/listed"
}

@test "two readers at once do not disturb each other" {
	dd if="$PIN/rules" bs=100 of="$WORK/slow" status=none &
	cat "$PIN/rules" >"$WORK/fast"
	wait $!
	cmp "$WORK/slow" "$WORK/fast"
	is "$(grep -c ^in "$WORK/fast")" "$RULES"
	is "$(entries rules_readers)" 0
}
