#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# iter_netns: tells whoever reads it the number of its netns, by which settings know a
# ztunnel's and no other netns ever will be known, and where its struct net is.

load helpers.bash

setup_file() {
	node_up iter_netns
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up other 10.77.1.2
	load_from ztunnel -z "$ZTUNNEL_POD_IP"
}

teardown_file() {
	node_down
}

both() { # NETNS: as one there reads it
	run_in node "$1" cat "$PIN/links/iter_netns"
}

number() { # NETNS
	both "$1" | cut -d ' ' -f 1
}

@test "two numbers and nothing else, the same each time, others for each netns" {
	run -0 both ztunnel
	[[ $output =~ ^[1-9][0-9]*\ [1-9][0-9]*$ ]]
	is "$(both ztunnel)" "$output"
	[ "$(both other | cut -d ' ' -f 2)" != "${output#* }" ]
	output=${output% *}
	[ "$(number other)" != "$output" ]
	[ "$(number node)" != "$output" ]
	[ "$(number node)" != "$(number other)" ]
}

@test "it is the netns' cookie, where there is one to ask for" {
	asks='
import socket
try: print(int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), "little")) # SO_NETNS_COOKIE
except OSError: print("none")'
	run -0 run_in node ztunnel python3 -c "$asks"
	[ "$output" = none ] || is "$(number ztunnel)" "$output"
}

@test "what the loader has written to settings is this" {
	settings_read
	# shellcheck disable=SC2206 # bytes
	settings=($settings)
	number=0
	for ((i = 7; i >= 0; i--)); do
		number=$((number << 8 | ${settings[80 + i]}))
	done
	is "$(printf %u "$number")" "$(number ztunnel)"
}

@test "a netns that takes the place of one that has gone has another" {
	was=$(number other)
	pod_down other
	pod_up other 10.77.1.2
	[ "$(number other)" != "$was" ]
}
