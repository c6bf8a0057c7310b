#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# What onramp-zds may do, and needs no more than: which capabilities, a root that is read
# only but for where it writes, the node's pids. Its uid is root's, whose DIR is.

load helpers.bash
load mesh.bash
load zds.bash
load zds_peers.bash

# What scripts/README.md names. Before 5.11 locked memory is limited as well.
CAPABILITIES=+sys_admin,+sys_ptrace
[ "$(printf '%s\n' 5.11 "$(uname -r)" | sort -V | head -n 1)" = 5.11 ] ||
	CAPABILITIES+=,+sys_resource

PROGRAM=${ZDS:-$ROOT/build/onramp-zds}

setup_file() {
	peers_up zds_rights
	zds_kill
}

teardown() {
	zds_pid || zds_up # for what peers_down waits for
	peers_down
	zds_kill
}

teardown_file() {
	zds_node_down
}

# All that it ever does to a pod, where it is run by this.
does_all() { # WORD...
	printf '%s\n' '#!/bin/bash' "exec $* $PROGRAM \"\$@\"" >"$WORK/run"
	chmod +x "$WORK/run"
	export ZDS=$WORK/run
	zds_up
	zt_up zt
	workload pod dns=true ip=10.77.1.2
	workload other bypass_inbound=true ip=10.9.9.9
	enabled pod
	becomes other "pending address"
	is "$(rule pod)" "zds-in dns"
	workload other bypass_inbound=true ip=10.77.1.3 ip=10.9.9.9
	enabled other
	serve third 10.77.1.4 80
	run -0 pod pod "$TCP" dial 10.77.1.4 80
	grep -q "^outbound peer=10.77.1.2:.* dst=10.77.1.4:80" "$WORK/zt"
	is "$(zds_metric 'onramp_zds_pods{state="enabled"}')" 2
	zds_kill TERM
	zds_up
	logged "^event=snapshot"
	no_workload pod
	becomes pod ""
	no_workload other
	becomes other ""
	retry 200 no_rule pod
	retry 200 no_rule other
	cgroup_of third/app
	cgroup_end "$CG/$cgroup"
	mkdir "$CG/$cgroup"
	is "$(log_count '^event=(cannot|bad)')" 0
}

no_rule() { # NAME
	[ -z "$(rule "$1")" ]
}

@test "with ${CAPABILITIES//+/} it does all of it" {
	does_all "setpriv --bounding-set=-all,$CAPABILITIES"
}

@test "without one of them it does not start, and says which to give" {
	for less in ${CAPABILITIES//[+,]/ }; do
		run -1 run_in zds node timeout 60 setpriv --bounding-set="-all,${CAPABILITIES/+$less/-$less}" \
			"$PROGRAM" -p "$PIN" -s "$ZDS_SOCKET" -w "$WORKLOADS"
		is "${#lines[@]}" 1
		has "onramp-zds: " "give " "CAP_${less^^}"
	done
	run -1 run_in zds node timeout 60 setpriv --reuid=65534 --clear-groups "$PROGRAM" -p "$PIN" \
		-s "$ZDS_SOCKET" -w "$WORKLOADS"
	is "${#lines[@]}" 1
	has "onramp-zds: " "give "
}

@test "where / is read only but for DIR's place, the socket's and its pins'" {
	cat >"$WORK/read-only" <<-END
		#!/bin/bash -e
		for at in "$WORK" "$STATE"; do mount --rbind "\$at" "\$at"; done
		mount -o remount,bind,ro /
		! : 2>/dev/null >"$ROOT/build/not-so"
		exec "\$@"
	END
	chmod +x "$WORK/read-only"
	does_all unshare -m "$WORK/read-only"
}
