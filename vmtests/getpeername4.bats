#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# getpeername4: the client sees whom it dialled, the proxy who dials.

load helpers.bash

setup_file() {
	client_and_server_up getpeername4
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

@test "a redirected client sees the destination that it dialled" {
	run -0 pod client "$TCP" dial 10.77.2.2 8443
	has "dialled=10.77.2.2:8443 "
}

@test "the proxy sees the client, not what the client dialled" {
	run -0 pod client "$TCP" dial 10.77.2.2 8443
	has " peer=10.77.1.2:"
}

@test "clients that are not redirected see the kernel's answer" {
	run -0 pod server "$TCP" dial "$ZTUNNEL_POD_IP" 15001
	has "dialled=$ZTUNNEL_POD_IP:15001 "
	run -0 node "$TCP" dial 10.77.2.2 80
	has "dialled=10.77.2.2:80 "
}

@test "an unconnected socket still has no peer" {
	run -0 pod client python3 -c '
import socket
try: print(socket.socket().getpeername())
except OSError as e: print(e.errno)'
	is "$output" 107
}
