#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# In-pod mode: the app sees its client's address, though ztunnel's connection comes from
# the pod itself: by each call that tells it, both families, for as long as it asks; and
# never a loopback address of somebody else's.

load helpers.bash
load mesh.bash

POD=10.77.1.2 POD6=fd00:77::2
CLIENT=10.77.2.2 CLIENT6=fd00:77::22

setup_file() {
	node_up client_address
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up pod $POD
	pod_up outside $CLIENT # not enrolled
	ip -n "$RUN-pod" addr add 10.77.9.9/16 dev eth0
	dual_stack pod:2 outside:22
	mkdir "$CG/zt" "$CG/kubelet" "$CG/pod/app"
	load_from node -a -t "$CG/zt" -k "$CG/kubelet" -e 10.77.1.0/24
	agent_up pod
	zt_up zt
	lead pod
	apps
	app_up >&2
}

teardown_file() {
	node_down
}

# An app with a listener for each way to learn of a client, and each kind of socket, at
# PORTS of the way and the kind; it answers with whom it saw. What it holds it tells of
# again when its input says so.
PORTS='accept 8000 accept4 8010 getpeername 8020 io_uring 8030 mptcp 8040'
apps() {
	cat >"$WORK/app.py" <<-'END'
		import ctypes, errno, mmap, os, select, socket, struct, sys
		libc = ctypes.CDLL(None, use_errno=True)

		def check(result):
		    if result < 0:
		        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
		    return result

		def name(raw):
		    if struct.unpack_from("=H", raw)[0] == socket.AF_INET:
		        return socket.inet_ntoa(raw[4:8]) + ":%d" % int.from_bytes(raw[2:4], "big")
		    return "[%s]:%d" % (socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big"))

		def by_libc(listener):
		    raw, size = ctypes.create_string_buffer(28), ctypes.c_uint(28)
		    fd = check(libc.accept(listener.fileno(), raw, ctypes.byref(size)))
		    return socket.socket(fileno=fd), name(raw.raw)

		def by_accept4(listener):
		    raw, size = ctypes.create_string_buffer(28), ctypes.c_uint(28)
		    fd = check(libc.accept4(listener.fileno(), raw, ctypes.byref(size), os.O_CLOEXEC))
		    return socket.socket(fileno=fd), name(raw.raw)

		def by_getpeername(listener):
		    client = socket.socket(fileno=check(libc.accept(listener.fileno(), None, None)))
		    return client, told(client)

		def by_io_uring(listener):
		    params = bytearray(120)
		    ring = check(libc.syscall(425, 1, (ctypes.c_char * 120).from_buffer(params)))
		    sq = struct.unpack_from("=10I", params, 40) # offsets: head tail mask entries flags dropped array
		    cq = struct.unpack_from("=10I", params, 80) # head tail mask entries overflow cqes
		    submit = mmap.mmap(ring, sq[6] + 4, offset=0)
		    done = mmap.mmap(ring, cq[5] + 2 * 16, offset=0x8000000)
		    entry = mmap.mmap(ring, 64, offset=0x10000000)
		    raw, size = ctypes.create_string_buffer(28), ctypes.c_uint(28)
		    entry[0:24] = struct.pack("=BBHiQQ", 13, 0, 0, listener.fileno(), ctypes.addressof(size), ctypes.addressof(raw))
		    struct.pack_into("=I", submit, sq[6], 0)
		    struct.pack_into("=I", submit, sq[1], 1)
		    check(libc.syscall(426, ring, 1, 1, 1, None, 0))
		    fd = struct.unpack_from("=Qi", done, cq[5])[1]
		    os.close(ring)
		    if fd < 0:
		        raise OSError(-fd, os.strerror(-fd))
		    return socket.socket(fileno=fd), name(raw.raw)

		def told(client):
		    peer = client.getpeername()
		    return ("[%s]:%d" if ":" in peer[0] else "%s:%d") % peer[:2]

		ways = {"accept": by_libc, "accept4": by_accept4, "getpeername": by_getpeername,
		        "io_uring": by_io_uring, "mptcp": by_accept4}
		listeners, held = {}, []
		words = os.environ["PORTS"].split()
		for way, port in zip(words[::2], map(int, words[1::2])):
		    for kind in "v4", "dual", "v6":
		        try:
		            l = socket.socket(socket.AF_INET if kind == "v4" else socket.AF_INET6,
		                socket.SOCK_STREAM, 262 if way == "mptcp" else 0)
		            if kind != "v4":
		                l.setsockopt(41, socket.IPV6_V6ONLY, kind == "v6")
		            l.setsockopt(1, 2, 1) # SO_REUSEADDR
		            l.bind(("", port)); l.listen(4096); port += 1
		            listeners[l.fileno()] = l, way, kind
		        except OSError as e:
		            print("none", way, errno.errorcode[e.errno])
		print("ready", flush=True)
		while True:
		    for fd in select.select([0, *listeners], [], [])[0]:
		        if fd == 0:
		            if not os.read(0, 1):
		                sys.exit()
		            print("held", *map(told, held), flush=True)
		            continue
		        l, way, kind = listeners[fd]
		        try:
		            client, seen = ways[way](l)
		            line = "%s %s saw %s and %s\n" % (way, kind, seen, told(client))
		            print(line, end="", flush=True)
		        except OSError as e:
		            print("none", way, errno.errorcode[e.errno], flush=True)
		            client, line = socket.socket(fileno=libc.accept(fd, None, None)), "none\n"
		        client.send(line.encode())
		        if way == "accept4":
		            held.append(client)
		        else:
		            client.close()
	END
}

app_up() {
	[ -p "$WORK/asks" ] || mkfifo "$WORK/asks"
	launch "$WORK/app" asked run_in pod/app pod env PORTS="$PORTS" python3 -IS "$WORK/app.py"
	grep ^none "$WORK/app" || :
}

asked() {
	"$@" <>"$WORK/asks"
}

app_again() { # it holds nothing then
	cgroup_end "$CG/pod/app"
	mkdir "$CG/pod/app"
	app_up
}

dial() { # NETNS ADDRESS PORT: what the app saw, without its client's port
	run -0 run_in "${CGROUP-$1}" "$1" "$TCP" dial "$2" "$3"
	saw=$(sed -nE 's/^dialled=.* (from=.*) saw (.*):[0-9]+ and (.*):[0-9]+$/\2 \3/p' <<<"$output")
}

# The app is shown ADDRESS by all ways: of IPv4 (its own and mapped), or IPv6.
all_see() { # NETNS DIALLED ADDRESS
	local way port kind ways
	read -ra ways <<<"$PORTS"
	for ((way = 0; way < ${#ways[@]}; way += 2)); do
		! grep -q "^none ${ways[way]}" "$WORK/app" || { echo "# no ${ways[way]}: $(grep -m 1 ^none "$WORK/app")" >&3; continue; }
		port=${ways[way + 1]}
		if [[ $2 == *:* && $2 != ::ffff:* ]]; then
			dial "$1" "$2" $((port + 1))
			has "${ways[way]} dual "
			is "$saw" "[$3] [$3]"
			dial "$1" "$2" $((port + 2))
			has "${ways[way]} v6 "
			is "$saw" "[$3] [$3]"
		else
			dial "$1" "$2" "$port"
			has "${ways[way]} v4 "
			is "$saw" "$3 $3"
			dial "$1" "$2" $((port + 1))
			has "${ways[way]} dual "
			is "$saw" "[::ffff:$3] [::ffff:$3]"
		fi
	done
}

@test "accept(), accept4(), getpeername(), io_uring, MPTCP: the client's address, IPv4 and mapped" {
	all_see outside $POD $CLIENT
}

@test "... and IPv6" {
	all_see outside $POD6 $CLIENT6
}

@test "the kubelet's and the pod's own are what they are" {
	CGROUP=kubelet all_see node $POD "$NODE_IP"
	CGROUP=kubelet all_see node $POD6 fd00:77::ff
	all_see pod $POD $POD
	all_see pod $POD6 $POD6
	dial pod 127.0.0.1 8001
	is "$saw" "[::ffff:127.0.0.1] [::ffff:127.0.0.1]"
	dial pod ::1 8001
	is "$saw" "[::1] [::1]"
}

held() { # WHAT the app says of what it holds, without ports
	local n
	n=$(grep -c ^held "$WORK/app" || :)
	echo >"$WORK/asks"
	retry 60 sh -c "[ \$(grep -c ^held '$WORK/app') -gt $n ]"
	is "$(tail -n 1 "$WORK/app" | sed -E 's/:[0-9]+( |$)/\1/g')" "held $1"
}

@test "it stays so once seen: when the client, ztunnel's end and ztunnel have gone" {
	app_again
	dial outside $POD 8010
	dial outside $POD 8011
	dial outside $POD6 8011
	dial outside $POD6 8012
	all="$CLIENT [::ffff:$CLIENT] [$CLIENT6] [$CLIENT6]"
	held "$all"
	zt_kill KILL zt
	retry 60 no_ends_of_ztunnel
	held "$all"
	zt_up zt
}

# What ztunnel had open to the app has closed.
no_ends_of_ztunnel() {
	! ss -N "$RUN-pod" -Htano dport ge 8000 dport le 8050 | grep -vq 'timer:(timewait'
}

# The app does not accept what comes meanwhile.
app_sleeps() {
	app_again
	read -r app <"$CG/pod/app/cgroup.procs"
	kill -STOP "$app"
}
early_clients() {
	for each in "$POD 8010" "$POD 8011" "$POD6 8011" "$POD6 8012"; do
		# shellcheck disable=SC2086 # words
		run_in outside outside "$TCP" early 1 $each
	done
	retry 60 queue_is 4
}
app_wakes() {
	kill -CONT "$app"
	retry 60 queue_is 0
}
queue_is() { # COUNT: waits to be accepted
	[ "$(ss -N "$RUN-pod" -Htln sport ge 8010 sport le 8012 | awk '{ n += $2 } END { print n }')" = "$1" ]
}

@test "of a client that has sent and gone before the app accepts, too" {
	app_sleeps
	early_clients
	app_wakes
	held "$CLIENT [::ffff:$CLIENT] [$CLIENT6] [$CLIENT6]"
}

gone_before_accept() { # nothing|listener
	app_sleeps
	early_clients
	# Its TIME-WAIT is what is found else.
	most=$(ip netns exec "$RUN-pod" sysctl -n net.ipv4.tcp_max_tw_buckets)
	[ "$1" != listener ] || ip netns exec "$RUN-pod" sysctl -qw net.ipv4.tcp_max_tw_buckets=0
	zt_kill KILL zt
	retry 60 no_ends_of_ztunnel
	port=$(grep -m 1 -oE 'bound=127[0-9.]*:[0-9]+' "$WORK/zt" | grep -oE '[0-9]+$')
	mkdir "$CG/pod/other"
	launch "$WORK/other" run_in pod/other pod "$TCP" serve 0.0.0.0 "$port"
	app_wakes
	retry 60 sh -c "[ \$(grep -c ' saw ' '$WORK/app') = 4 ]"
	is "$(sed -nE 's/:[0-9]+( |$)/\1/g; s/^accept4 (.*) saw (.*) and (.*)/\1 \2 \3/p' "$WORK/app" | sort | xargs)" \
		"dual [::ffff:$POD] [::ffff:$POD] dual [$POD6] [$POD6] v4 $POD $POD v6 [$POD6] [$POD6]"
	cgroup_end "$CG/pod/other"
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.tcp_max_tw_buckets="$most"
	zt_up zt
}

@test "ztunnel's end gone before the app accepts: the pod's own address, never loopback" {
	gone_before_accept nothing
}

@test "... and another listens on its port" {
	gone_before_accept listener
}

@test "an app that begins anew has its ports again, whatever ztunnel has there" {
	# One connection is open, others have ended, of a port where nobody listens as well.
	app_again
	run_in outside outside "$ROOT/build/hold" dial 1 $POD 8010 1 $POD6 8011 \
		<>"$WORK/silent" >"$WORK/holds" 2>&1 3>&- &
	retry 60 grep -q holding "$WORK/holds" || { cat "$WORK/holds"; false; }
	dial outside $POD 8000
	dial outside $POD 8001
	dial outside $POD6 8022
	for address in $POD $POD6; do
		run -0 run_in outside outside timeout 5 bash -c "cat </dev/tcp/$address/8050"
	done
	[ -n "$(ss -N "$RUN-pod" -Htan sport = :8050)" ]
	PORTS="$PORTS accept 8050" app_again
	is "$(grep EADDRINUSE "$WORK/app" || :)" ""
	cgroup_end "$CG/outside"
	mkdir "$CG/outside"
}

# In ztunnel's cgroup: what becomes of each BIND of "tcp|udp ADDRESS PORT", as ztunnel's
# (IP_TRANSPARENT, IP_FREEBIND), or of "full tcp ADDRESS PORT": one without room for
# anything in its socket, and what the app at ADDRESS2 PORT2 then sees.
binds() { # CGROUP NETNS BIND...
	run -0 run_in "$1" "$2" python3 -ISc '
import errno, socket, struct, sys
def keys_fill(s, v6):
    for n in range(1 << 20):
        peer = (struct.pack("=HHI16sI", 10, 0, 0, b"\xfd\x99" + bytes(10) + n.to_bytes(4, "big"), 0) if v6
            else struct.pack("=HH4s", 2, 0, (0xf0000000 + n).to_bytes(4, "big"))).ljust(128, b"\0")
        try: s.setsockopt(6, 14, peer + struct.pack("=BBHi80s", 0, 0, 4, 0, b"keys")) # TCP_MD5SIG
        except OSError as e:
            assert e.errno == errno.ENOMEM, e
            return
for bind in sys.argv[1:]:
    words = bind.split()
    full = words[0] == "full" and words.pop(0)
    kind, address, port, *to = words
    v6 = ":" in address
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET,
        socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    for option in (75, 78) if v6 else (19, 15):
        s.setsockopt(41 if v6 else 0, option, 1)
    s.settimeout(5)
    if full: keys_fill(s, v6)
    try:
        s.bind((address, int(port)))
        print(kind, s.getsockname()[0], s.getsockname()[1] if int(port) else 0, end=" ")
    except OSError as e:
        print(errno.errorcode[e.errno], end=" ")
    if to:
        s.connect((to[0], int(to[1])))
        print(s.makefile().readline().split(" and ")[0].rpartition(":")[0], end="")
    print()' "${@:3}"
}

@test "ztunnel's binds: to a client's, the port left to the kernel, another is bound; all others stay" {
	binds zt pod "tcp $CLIENT 0" "tcp ::ffff:$CLIENT 0" "tcp $CLIENT6 0"
	[[ ${lines[0]} =~ ^"tcp 127.64.0."[0-9]+" 0" ]]
	[[ ${lines[1]} =~ ^"tcp ::ffff:127.64.0."[0-9]+" 0" ]]
	is "${lines[2]}" "tcp :: 0 "
	local all=()
	for address in 0.0.0.0 127.0.0.1 127.64.0.1 127.9.9.9 $POD 10.77.9.9 :: ::1 $POD6 ::ffff:$POD; do
		all+=("tcp $address 0" "tcp $address 4000")
	done
	all+=("tcp $CLIENT 4000" "tcp $CLIENT6 4000" "udp $CLIENT 0" "udp $CLIENT6 0")
	binds zt pod "${all[@]}"
	is "$output" "$(printf '%s \n' "${all[@]}")"
	# What is not ztunnel's.
	binds pod pod "tcp $CLIENT 0" "tcp $CLIENT6 0"
	is "$output" "$(printf '%s \n' "tcp $CLIENT 0" "tcp $CLIENT6 0")"
}

@test "they are of 256 addresses, at random" {
	mapfile -t all < <(yes "tcp $CLIENT 0" | head -n 100)
	binds zt pod "${all[@]}"
	n=$(sort -u <<<"$output" | wc -l)
	[ "$n" -gt 60 ] # 82.7 are to be expected
}

@test "the bind finds no room for the client's address: it fails, and the app sees the pod's own" {
	binds zt pod "full tcp $CLIENT 0 $POD 8000" "full tcp ::ffff:$CLIENT 0 ::ffff:$POD 8001" \
		"full tcp $CLIENT6 0 $POD6 8001" "tcp $CLIENT 0 $POD 8001" "tcp $CLIENT6 0 $POD6 8001"
	is "${lines[0]}" "EPERM accept v4 saw $POD"
	is "${lines[1]}" "EPERM accept dual saw [::ffff:$POD]"
	is "${lines[2]}" "EPERM accept dual saw [$POD6]"
	[[ ${lines[3]} == "tcp 127.64.0."*" accept dual saw [::ffff:$CLIENT]" ]]
	is "${lines[4]}" "tcp :: 0 accept dual saw [$CLIENT6]"
}

@test "a program that binds such an address itself is nobody else: in the pod, in another, on the node" {
	cat >"$WORK/selfish.py" <<-'END'
		import socket
		for family, at in (2, "127.0.0.1"), (10, "::"):
		    l = socket.socket(family)
		    l.bind((at, 0)); l.listen()
		    s = socket.socket()
		    s.bind(("127.64.0.1", 0))
		    s.connect(("127.64.0.2" if family == 10 else at, l.getsockname()[1]))
		    a, seen = l.accept()
		    print(seen[0], a.getpeername()[0], s.getpeername()[0], s.getsockname()[0])
	END
	for each in "pod pod" "outside outside" "node node"; do
		# shellcheck disable=SC2086 # words
		run -0 run_in $each python3 -IS "$WORK/selfish.py"
		is "${lines[0]}" "127.64.0.1 127.64.0.1 127.0.0.1 127.64.0.1"
		is "${lines[1]}" "::ffff:127.64.0.1 ::ffff:127.64.0.1 127.64.0.2 127.64.0.1"
	done
}

# A server of a language's own kind, in the pod, which answers with the client's address.
language() { # COMMAND...
	launch "$WORK/language" run_in pod/app pod "$@"
	for each in "$POD 9000 $CLIENT" "$POD6 9000 $CLIENT6"; do
		read -r address port client <<<"$each"
		run -0 pod outside "$TCP" dial "$address" "$port"
		output=${output//[\[\]]/}
		output=${output//::ffff:/}
		has " saw $client "
	done
	cgroup_end "$CG/pod/app"
	mkdir "$CG/pod/app"
}

@test "Python: socketserver, asyncio" {
	language python3 -ISc '
import socket, socketserver
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address = socket.AF_INET6, True
class Handler(socketserver.StreamRequestHandler):
    def handle(self): self.wfile.write(b"saw %s \n" % self.client_address[0].encode())
s = Server(("::", 9000), Handler)
print("ready", flush=True)
s.serve_forever()'
	language python3 -Ic '
import asyncio
async def told(reader, writer):
    writer.write(b"saw %s \n" % writer.get_extra_info("peername")[0].encode()); await writer.drain(); writer.close()
async def main():
    s = await asyncio.start_server(told, ["0.0.0.0", "::"], 9000)
    print("ready", flush=True)
    await s.serve_forever()
asyncio.run(main())'
}

natively() { # COMMAND
	[ -z "${ONRAMP_TEST_VM-}" ] || skip "natively alone"
	[ -n "$(type -P "$1")" ] || skip "no $1 here"
}

# bats test_tags=once
@test "Go: net.Listener" {
	natively go
	mkdir "$WORK/go"
	cat >"$WORK/go/main.go" <<-'END'
		package main
		import ("fmt"; "net")
		func main() {
			l, err := net.Listen("tcp", ":9000")
			if err != nil { panic(err) }
			fmt.Println("ready")
			for {
				c, err := l.Accept()
				if err != nil { panic(err) }
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "saw %s \n", host)
				c.Close()
			}
		}
	END
	(cd "$WORK/go" && CGO_ENABLED=0 GO111MODULE=off go build -o server main.go)
	language "$WORK/go/server"
}

# bats test_tags=once
@test "Java: ServerSocket, ServerSocketChannel" {
	natively javac
	cat >"$WORK/Server.java" <<-'END'
		import java.net.*;
		import java.nio.*;
		import java.nio.channels.*;
		class Server {
			static void answer(SocketChannel c, InetAddress a) throws Exception {
				c.write(ByteBuffer.wrap(("saw " + a.getHostAddress() + " \n").getBytes()));
				c.close();
			}
			public static void main(String[] args) throws Exception {
				ServerSocketChannel l = ServerSocketChannel.open();
				if (args[0].equals("nio")) {
					l.bind(new InetSocketAddress(9000));
					System.out.println("ready");
					for (;;) {
						SocketChannel c = l.accept();
						answer(c, ((InetSocketAddress) c.getRemoteAddress()).getAddress());
					}
				}
				ServerSocket s = new ServerSocket(9000);
				System.out.println("ready");
				for (;;) {
					Socket c = s.accept();
					c.getOutputStream().write(("saw " + c.getInetAddress().getHostAddress() + " \n").getBytes());
					c.close();
				}
			}
		}
	END
	javac -J-Xint -J-XX:+UseSerialGC -d "$WORK" "$WORK/Server.java"
	# It writes IPv6 addresses in full.
	CLIENT6=fd00:77:0:0:0:0:0:22
	language java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$WORK" Server io
	language java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$WORK" Server nio
}

# bats test_tags=once
@test "Node.js: net.Server" {
	natively node
	language node -e '
require("net").createServer(s => s.end(`saw ${s.remoteAddress} \n`)).listen(9000, () => console.log("ready"));'
}
