#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Real programs as clients, in an enrolled pod with both families. ztunnel's
# stand-in answers each by HTTP with what it sees, and logs it; the program shows
# whom it believes to talk to, where it can.

load helpers.bash

setup_file() {
	node_up clients
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up client 10.77.1.2
	dual_stack client:1 ztunnel:9
	web ztunnel :: 15001
	# Kernel threads are in the root. On this machine others are as well.
	CG_ROOT=${ONRAMP_TEST_VM:+$(cgroup2_mount)}
	export CG_ROOT=${CG_ROOT:-$CG}
	node_mode -c "$CG_ROOT" -e 10.77.1.0/24 # IPv6 comes with the first test
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# One connection, as the client (dialled=, from=) and the proxy tell of it, or the
# proxy alone: it went to ADDRESS and PORT, by the pod's own address and port.
told() { # LINE ADDRESS [PORT]
	local own=10.77.1.2: original=orig4 from output
	[[ $2 != *:* ]] || { own=fd00:77::1: original=orig6; }
	output=${1//[\[\]]/}
	output="${output//::ffff:/} "
	has ":15001 peer=$own" " $original=$2:${3-80} "
	[[ $output != *dialled=* ]] || has "dialled=$2:${3-80} "
	[[ $output == *from=* ]] || return 0
	from=${output##*from=}
	has "from=$own" " peer=${from%% *} "
}

# What the proxy logged of requests by this program.
logged() { # USER-AGENT
	grep -F "agent=$1" "$WORK/serve-ztunnel-15001"
}

@test "curl: each family, and a name with both" {
	get() { # URL...: a line for each
		pod client curl -sS --resolve 'both.test:80:[fd00:77::2],10.77.2.2' \
			-w 'dialled=%{remote_ip}:%{remote_port} from=%{local_ip}:%{local_port}\n' "$@" |
			paste -d ' ' - -
	}
	# The family that ztunnel has no address for is unreachable: the other is taken.
	other=$(get http://both.test/)
	never_began 1
	node_mode -c "$CG_ROOT" -z "$ZTUNNEL_POD_IP6"
	told "$other" 10.77.2.2
	mapfile -t got < <(get http://10.77.2.2/ "http://[fd00:77::2]/" http://both.test/)
	told "${got[0]}" 10.77.2.2
	told "${got[1]}" fd00:77::2
	told "${got[2]}" fd00:77::2
}

@test "Python: each family, and IPv4 by an AF_INET6 socket" {
	run -0 pod client python3 -IS -c '
import socket
for family, address in ((2, "10.77.2.2"), (10, "fd00:77::2"), (10, "::ffff:10.77.2.2")):
    s = socket.socket(family)
    s.connect((address, 80))
    s.send(b"GET / HTTP/1.0\r\n\r\n")
    peer, own = s.getpeername(), s.getsockname()
    answer = s.makefile().read().splitlines()[-1]
    print("dialled=%s:%d from=%s:%d" % (peer[:2] + own[:2]), answer)'
	told "${lines[0]}" 10.77.2.2
	told "${lines[1]}" fd00:77::2
	told "${lines[2]}" 10.77.2.2
	[[ ${lines[2]} == "dialled=::ffff:"* ]]
}

@test "Node.js: each family" {
	run -0 pod client node -e '
const get = (host, then) => {
	const s = require("net").connect(80, host);
	const name = () => `dialled=${s.remoteAddress}:${s.remotePort} from=${s.localAddress}:${s.localPort}`;
	s.on("connect", () => s.write("GET / HTTP/1.0\r\n\r\n"));
	s.on("data", answer => console.log(name(), String(answer).trim().split("\n").pop()));
	s.on("close", then);
};
get("10.77.2.2", () => get("fd00:77::2", () => {}));'
	told "${lines[0]}" 10.77.2.2
	told "${lines[1]}" fd00:77::2
}

# A JVM takes 10 s where it is emulated: one then, for IPv4, which it dials mapped.
# Its API shows what the program asked for, never getpeername().
@test "Java: each family" {
	hosts=(10.77.2.2 '[fd00:77::2]')
	[ -z "${ONRAMP_TEST_VM-}" ] || unset 'hosts[1]'
	for host in "${hosts[@]}"; do
		run pod client keytool -J-Xint -J-XX:+UseSerialGC -J-XX:-UsePerfData -printcrl -file "http://$host/"
		has CRLException # it had an answer, and wanted another
		told "$(logged Java/ | tail -n 1)" "${host//[\[\]]/}"
	done
}

@test "nginx, as a proxy to each family" {
	mkdir "$WORK/nginx"
	cat >"$WORK/nginx/conf" <<-END
		daemon off;
		master_process off;
		error_log stderr;
		pid pid;
		events {}
		http {
		  access_log off;
		  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
		  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
		  server {
		    listen 127.0.0.1:8080;
		    add_header upstream "dialled=\$upstream_addr";
		    proxy_set_header User-Agent nginx;
		    location = /4 { proxy_pass http://10.77.2.2/; }
		    location = /6 { proxy_pass http://[fd00:77::2]/; }
		  }
		}
	END
	pod client nginx -p "$WORK/nginx" -c conf 2>"$WORK/nginx/err" 3>&- &
	disown
	retry 100 eval "ss -N '$RUN-client' -lntH | grep -q ':8080 '"
	mapfile -t got < <(pod client curl -sS -w '%header{upstream}\n' \
		http://127.0.0.1:8080/4 http://127.0.0.1:8080/6 | paste -d ' ' - -)
	told "${got[0]}" 10.77.2.2
	told "${got[1]}" fd00:77::2
}

@test "wrk: each family, a second of connections" {
	for host in 10.77.2.2 '[fd00:77::2]'; do
		before=$(connects redirected outbound)
		run -0 pod client wrk -t1 -c4 -d1s -H "User-Agent: wrk/$host" "http://$host/"
		[[ $output != *"Socket errors"* && $output != *"Non-2xx"* ]]
		has " requests in "
		requests=${output%% requests in *}
		requests=${requests##*[!0-9]}
		# It cuts off what is under way at its end, and counts only whole answers.
		output=$(logged "wrk/$host ")
		told "${output##*$'\n'}" "${host//[\[\]]/}"
		answers=$(wc -l <<<"$output")
		[ "$requests" -gt 0 ] && [ "$answers" -ge "$requests" ]
		[ "$answers" -le "$(($(connects redirected outbound) - before))" ]
		echo "# $host: $requests requests, each by a connection of its own" >&3
	done
}

# mount(8) in the client's pod, of what the stand-in cannot serve. It fails, and
# what counts is where the kernel's own socket goes, and goes again if it does.
mount_in_client() { # TYPE OPTIONS SOURCE PORT N: until N connects, to PORT or worse
	local log=$WORK/serve-ztunnel-15001 to="orig4=.*:($4|15001) "
	modprobe -q "$1" || grep -qw "$1" /proc/filesystems || skip "this kernel has no $1"
	mkdir -p "$WORK/mount"
	: >"$log"
	pod client mount -i -t "$1" -o "$2,port=$4" "$3" "$WORK/mount" >"$WORK/mount.out" 2>&1 3>&- &
	disown
	retry 150 sh -c "[ \$(grep -cE '$to' '$log') -ge $5 ]" || { cat "$log" "$WORK/mount.out" >&2; false; }
	cgroup_end "$CG/client" # or it goes on, while the connects are added up
	mkdir "$CG/client"
	mapfile -t went < <(grep -E "$to" "$log")
}

@test "the kernel's own: a 9p mount" {
	mount_in_client 9p trans=tcp 10.77.2.2 564 1
	told "${went[0]}" 10.77.2.2 564
}

# These are connected again by kernel threads, to the address that the mount keeps:
# connect() may not have changed it.
@test "the kernel's own: NFS and CIFS mounts connect again to where they were sent" {
	[ "$CG_ROOT" != "$CG" ] || skip "kernel threads are in the root cgroup, as others' programs are"
	mount_in_client cifs ip=10.77.2.2,unc=//10.77.2.2/x,username=a,password=b,vers=2.1 \
		//10.77.2.2/x 445 2
	told "${went[0]}" 10.77.2.2 445
	case $(uname -r) in
	5.10.*) told "${went[1]}" 10.77.2.2 15001 ;; # a limit: see vmtests/README.md
	*) told "${went[1]}" 10.77.2.2 445 ;;
	esac
	mount_in_client nfs4 addr=10.77.2.2,clientaddr=10.77.1.2,vers=4.1,soft 10.77.2.2:/ 2049 2
	for one in "${went[@]}"; do told "$one" 10.77.2.2 2049; done
}
