#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bind4 and bind6: ztunnel of node mode connects to apps as the client, from whose
# address no answer would find it. That bind is made harmless, and no other.

load helpers.bash

setup_file() {
	node_up bind
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up client 10.77.1.2
	pod_up member 10.77.1.3
	dual_stack ztunnel:9 client:1 member:3
	serve ztunnel :: 15008
	serve member :: 80
	mkdir "$CG/ztunnel/app"
	node_mode -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24
	pod member true
	cat >"$WORK/binds" <<-'END'
		import errno, socket, sys
		for bind in sys.argv[1:]:
		    kind, address, port, *to = bind.split()
		    v6 = ":" in address
		    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET,
		        socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
		    # IP_TRANSPARENT and IP_FREEBIND
		    for option in (75, 78) if v6 else (19, 15):
		        s.setsockopt(41 if v6 else 0, option, 1)
		    s.settimeout(3)
		    try:
		        s.bind((address, int(port)))
		        if to:
		            s.connect((to[0], int(to[1])))
		            print(s.makefile().readline().strip())
		        else:
		            bound = s.getsockname()
		            print(kind, bound[0], bound[1] if int(port) else 0)
		    except socket.timeout:
		        print("timeout")
		    except OSError as e:
		        print(errno.errorcode[e.errno])
	END
}

teardown_file() {
	node_down
}

# One process; each BIND is "tcp|udp ADDRESS PORT [TO PORT]".
binds() { # CGROUP NETNS BIND...
	run -0 run_in "$1" "$2" python3 "$WORK/binds" "${@:3}"
}

# The connection is made, and the app sees ztunnel.
harmless() { # CGROUP
	binds "$1" ztunnel "tcp 10.77.1.2 0 10.77.1.3 80" "tcp ::ffff:10.77.1.2 0 ::ffff:10.77.1.3 80" \
		"tcp fd00:77::1 0 fd00:77::3 80" "tcp 10.9.9.9 0" "tcp fd00:9::9 0"
	[[ ${lines[0]} == *" peer=[::ffff:$ZTUNNEL_POD_IP]:"* ]]
	[[ ${lines[1]} == *" peer=[::ffff:$ZTUNNEL_POD_IP]:"* ]]
	[[ ${lines[2]} == *" peer=[$ZTUNNEL_POD_IP6]:"* ]]
	is "${lines[3]}" "tcp 0.0.0.0 0"
	is "${lines[4]}" "tcp :: 0"
	# HBONE to a pod of this node goes to its own, the destination with it.
	binds "$1" ztunnel "tcp 10.77.1.2 0 10.77.1.3 15008" "tcp fd00:77::1 0 fd00:77::3 15008"
	[[ ${lines[0]} == "local=[::ffff:$ZTUNNEL_POD_IP]:15008 "*" orig4=10.77.1.3:15008 "* ]]
	[[ ${lines[1]} == "local=[$ZTUNNEL_POD_IP6]:15008 "*" orig6=[fd00:77::3]:15008 "* ]]
}

# Each is bound to what it asked for.
stay() { # CGROUP NETNS BIND...
	binds "$@"
	is "$output" "$(printf '%s\n' "${@:3}")"
}

@test "to a client's address, the port left to the kernel: harmless" {
	harmless ztunnel
	harmless ztunnel/app
}

@test "all others of ztunnel's are real, and stay" {
	ip -n "$RUN-ztunnel" addr add 10.77.0.99/16 dev eth0
	for address in 0.0.0.0 127.0.0.1 127.9.9.9 "$ZTUNNEL_POD_IP" 10.77.0.99 :: ::1 "$ZTUNNEL_POD_IP6"; do
		all+=("tcp $address 0" "tcp $address 15006")
	done
	stay ztunnel ztunnel "${all[@]}" "tcp 10.77.1.2 4000" "tcp fd00:77::1 4000" \
		"udp 10.77.1.2 0" "udp fd00:77::1 0"
}

@test "what is not ztunnel's stays" {
	stay client client "tcp 10.77.1.3 0" "tcp fd00:77::3 0"
	stay node node "tcp 10.77.1.3 0" "tcp fd00:77::3 0"
}

@test "ztunnel is known by its netns: the same, in whichever cgroup" {
	onramp unload
	load_from ztunnel -z "$ZTUNNEL_POD_IP" -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24
	harmless ztunnel
	harmless node
	stay ztunnel ztunnel "tcp $ZTUNNEL_POD_IP 0" "tcp fd00:77::1 4000"
	stay client client "tcp 10.77.1.3 0" "tcp fd00:77::3 0"
}
