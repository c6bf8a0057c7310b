#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# What reads the metrics file: Prometheus (its own checker), the unit that hands
# it to node_exporter, and the dashboard. (iter_metrics.bats has a stricter reader,
# for all kernels.)

load helpers.bash

PROMTOOL=$(type -P promtool) || PROMTOOL=${XDG_CACHE_HOME:-/var/cache}/onramp/promtool
DASHBOARD=$ROOT/scripts/grafana/onramp.json
UNIT=$ROOT/scripts/systemd/onramp-textfile.service

setup_file() {
	client_and_server_up metrics_out
	pod client "$TCP" dial 10.77.2.2 80 3
}

teardown_file() {
	node_down
}

@test "Prometheus' own checker has nothing to say" {
	run -0 "$PROMTOOL" check metrics <"$PIN/metrics"
	is "$output" ""
	# It would: what is no number, a counter that is not called so. (Not a sample that
	# is there twice: iter_metrics.bats sees to that.)
	for fault in '$s/.$/x/' 's/doubts_total/doubts/'; do
		sed "$fault" "$PIN/metrics" >"$WORK/faulty"
		run ! "$PROMTOOL" check metrics <"$WORK/faulty"
	done
}

# Runs what the unit does each time, in a directory of the test's own.
hand_over() {
	local command
	command=$(sed -n "s/^ExecStart=\/bin\/sh -c '\(.*\)'$/\1/p" "$UNIT")
	[ -n "$command" ]
	PIN_DIR=$PIN TEXTFILES=$WORK/textfiles sh -c "$command"
}

@test "the unit: the same text for node_exporter, whole at any time, readable for it" {
	mkdir "$WORK/textfiles"
	(umask 0022 && hand_over)
	is "$(ls "$WORK/textfiles")" onramp.prom
	is "$(cat "$WORK/textfiles/onramp.prom")" "$(cat "$PIN/metrics")"
	is "$(stat -c %a "$WORK/textfiles/onramp.prom")" 644
	grep -qx UMask=0022 "$UNIT"
	for _ in {1..50}; do hand_over; done 3>&- &
	whole=$(wc -l <"$PIN/metrics")
	for _ in {1..500}; do
		mapfile -t text <"$WORK/textfiles/onramp.prom"
		is "${#text[@]}" "$whole"
	done
	wait
}

@test "the unit: without onramp it fails, and leaves no old text" {
	PIN=$WORK/none run ! hand_over
	is "$(ls "$WORK/textfiles")" ""
}

@test "the unit's paths are the defaults, and the timer is its own" {
	grep -qx 'Environment=PIN_DIR=/sys/fs/bpf/onramp' "$UNIT"
	[ -e "${UNIT%.service}.timer" ]
}

expressions() {
	jq -r '.. | .expr? // empty, (.templating?.list[]?.query | strings)' "$DASHBOARD"
}

@test "the dashboard: valid, all metrics are there, none is missing" {
	expressions | grep -o 'onramp_[a-z_]*' | sort -u >"$WORK/used"
	sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p' "$PIN/metrics" | sort >"$WORK/there"
	[ -s "$WORK/used" ]
	is "$(cat "$WORK/used")" "$(cat "$WORK/there")"
	# Nor a label, or a value of one, that no sample has.
	for name in $(expressions | grep -o 'onramp_[a-z_]*{[^}]*}' | grep -oE '[a-z]+="[a-z_]+"' | sort -u) ; do
		grep -q "[{,]$name" "$PIN/metrics"
	done
	for label in $(expressions | grep -oE 'by \([a-z, ]*' | grep -oE '[a-z]{3,}' | sort -u); do
		[ "$label" = instance ] || grep -q "[{,]$label=" "$PIN/metrics"
	done
}

@test "the dashboard: Prometheus understands each expression" {
	{
		printf 'groups:\n- name: dashboard\n  rules:\n'
		jq -r '.. | .expr? // empty' "$DASHBOARD" | sed 's/\$__rate_interval/5m/g' | nl |
			while read -r n expression; do
				printf -- '  - record: r%s\n    expr: %s\n' "$n" "$(jq -Rn --arg e "$expression" '$e')"
			done
	} >"$WORK/rules.yml"
	[ "$(grep -c record "$WORK/rules.yml")" -ge 8 ]
	run -0 "$PROMTOOL" check rules "$WORK/rules.yml"
	has "$(grep -c record "$WORK/rules.yml") rules found"
	# No two panels in one place.
	run -0 jq -e '[.panels[].gridPos | [.x, .y]] | length == (unique | length)' "$DASHBOARD"
	is "$(jq '[.panels[].id] | length == (unique | length)' "$DASHBOARD")" true
}
