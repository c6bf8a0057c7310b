#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone,once
# In-pod mode: as many connections as there are, at once and one after another, out of a
# pod and into one. ONRAMP_TEST_WALL: how many one after another (40,000; 2,000 in a VM);
# the ports that there are for them are fewer in proportion. ONRAMP_TEST_CONNECTIONS: at once.

load helpers.bash
load mesh.bash

POD=10.77.1.2 POD6=fd00:77::2
WALL=${ONRAMP_TEST_WALL:-${ONRAMP_TEST_VM:+2000}} WALL=${WALL:-40000}
N=${ONRAMP_TEST_CONNECTIONS:-5000}

setup_file() {
	node_up wall
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up pod $POD
	pod_up outside 10.77.2.2 # not enrolled
	dual_stack pod:2 outside:22
	routes_to_light_pods pod outside
	mkdir -p "$CG/zt/proxy"
	load_from node -a -t "$CG/zt" -e 10.77.1.0/24
	agent_up pod
	lead pod
	for name in pod outside; do ip netns exec "$RUN-$name" sysctl -qw net.ipv4.tcp_max_tw_buckets=1000000; done
	cat >"$WORK/ends.py" <<-'END'
		import resource, select, socket, sys, time
		def files():
		    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
		    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
		# Tells each client whom it sees. What is said first ends it: "x" by us, "y" by them.
		def serve(port, holds):
		    files()
		    l = socket.socket(socket.AF_INET6)
		    l.setsockopt(1, 15 if port == 15001 else 2, 1) # SO_REUSEPORT, SO_REUSEADDR
		    l.bind(("::", port)); l.listen(65535)
		    print("ready", flush=True)
		    held = []
		    while True:
		        s, name = l.accept()
		        if holds:
		            s.send(name[0].encode() + b"\n"); held.append(s)
		            continue
		        if s.recv(1) == b"y":
		            s.send(b"z"); s.recv(1)
		        s.close()
		# One after another; how many microseconds each of the first and the last tenth took.
		# A second has no more of them than so many, if there is a most.
		def many(count, first, dial, most=0):
		    took, start = [], time.monotonic()
		    for n in range(count):
		        if most and n % 100 == 0:
		            time.sleep(max(0, start + n / most - time.monotonic()))
		        begun = time.monotonic_ns()
		        s = dial()
		        s.send(first)
		        if first == b"y":
		            s.recv(1); s.close()
		        else:
		            assert not s.recv(1); s.close()
		        took.append(time.monotonic_ns() - begun)
		    tenth = max(count // 10, 1)
		    print(*(sorted(part)[tenth // 2] // 1000 for part in (took[:tenth], took[-tenth:])))
	END
}

teardown_file() {
	node_down
}

python() { # CGROUP NETNS SCRIPT
	run_in "$1" "$2" env PYTHONDONTWRITEBYTECODE=1 python3 -ISc "import sys; sys.path.append('$WORK'); from ends import *
$3"
}

cgroup_anew() { # NAME...
	for name; do
		cgroup_end "$CG/$name"
		mkdir "$CG/$name"
	done
}

# As few ports as it takes to have none left, were they not had again.
few_ports() { # COUNT
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.ip_local_port_range="$((60999 - $1)) 60999"
}
all_ports() {
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.ip_local_port_range="32768 60999"
}

# Each was made, and the last were no slower than the first.
flat() { # WHAT
	local first last
	read -r first last <<<"$output"
	echo "# $1: $WALL, $first us each, at last $last us" >&3
	[ "$last" -lt $((first * 3)) ]
}

@test "into a pod, one after another, ztunnel or the app closing first" {
	launch "$WORK/app" python pod pod 'serve(80, False)'
	few_ports $((WALL / 32))
	for first in x y; do
		# As ztunnel connects to an app.
		run -0 python zt pod "
def dial():
    s = socket.socket()
    s.setsockopt(0, 19, 1); s.setsockopt(0, 15, 1) # IP_TRANSPARENT, IP_FREEBIND
    s.bind(('10.77.2.2', 0))
    s.connect(('$POD', 80))
    return s
many($WALL, b'$first', dial)"
		flat "into a pod, $([ $first = x ] && echo "the app" || echo ztunnel) closes first"
	done
	all_ports
	cgroup_anew pod
}

@test "out of a pod, one after another, the pod or ztunnel closing first" {
	launch "$WORK/proxy" python zt/proxy pod 'serve(15001, False)'
	# Of a port of the pod's in TIME-WAIT another connection may be made in the next second
	# but one, for that is loopback's.
	ports=$((WALL * 2 / 5 < 28232 ? WALL * 2 / 5 : 28232))
	few_ports $ports
	for first in x y; do
		run -0 python pod pod "many($WALL, b'$first', lambda: socket.create_connection(('10.77.2.2', 80)), $ports / 2.2 * (b'$first' == b'y'))"
		flat "out of a pod, $([ $first = x ] && echo ztunnel || echo "the pod") closes first"
	done
	all_ports
	cgroup_anew pod zt/proxy
	is "$(metric 'map_full_total{map="numbers"}')" 0
}

# Each gets an answer, and all are open then; how many by whom they were seen as. A few at
# a time, for ztunnel's queue holds 128.
at_once() { # CGROUP NETNS TO...
	run -0 python "$1" "$2" "
files()
to, held, seen = '${*:3}'.split(), [], {}
while len(held) < $N:
    some = [socket.socket(10 if ':' in to[n % len(to)] else 2) for n in range(min(100, $N - len(held)))]
    for n, s in enumerate(some):
        s.setblocking(False); s.connect_ex((to[n % len(to)], 80))
    for s in some:
        s.settimeout(30)
        line = s.recv(99)
        seen[line] = seen.get(line, 0) + 1
    held += some
print(*sorted('%s=%d' % (line.decode().strip(), count) for line, count in seen.items()))"
}

@test "$N at once, into a pod and out of one, through ztunnel" {
	zt_up zt
	launch "$WORK/app" python pod pod 'serve(80, True)'
	launch "$WORK/other" python outside outside 'serve(80, True)'
	at_once outside outside $POD $POD6
	is "$output" "::ffff:10.77.2.2=$((N / 2)) fd00:77::22=$((N / 2))"
	cgroup_anew pod # it has kept all open
	at_once pod pod 10.77.2.2 fd00:77::22
	is "$output" "::ffff:$POD=$((N / 2)) $POD6=$((N / 2))"
	run grep -v ' via=direct\( bound=[^ ]*\)\?$' "$WORK/zt"
	is "$(grep -vE '^(told|ready)' <<<"$output" || :)" ""
}
