#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native,once
# onramp-watch: what it shows, in a terminal (tmux' own) and elsewhere.

load helpers.bash

WATCH=$ROOT/scripts/onramp-watch

setup_file() {
	client_and_server_up watch
	run_in client client true
}

teardown_file() {
	node_down
}

teardown() {
	terminal kill-server 2>/dev/null || :
}

terminal() { # COMMAND...
	env -u TMUX tmux -L "$RUN" -f /dev/null "$@" 3>&-
}

screen() { terminal capture-pane -p; }
on_screen() { screen | grep -qF -- "$1"; } # TEXT
not_on_screen() { run ! on_screen "$1"; }  # TEXT
setting() { terminal display-message -p "#{$1}"; }

# Starts it in a shell, whose terminal's settings are kept in $WORK/before.
watch_up() { # COLUMNS ROWS [SECONDS]
	# The server before may still be on its way out.
	retry 100 terminal new-session -d -x "$1" -y "$2" "env PS1= bash --norc"
	terminal send-keys "stty -a | tail -n +2 >'$WORK/before'; '$WATCH' -p '$PIN' -n ${3-0.2}; echo ended with \$?; stty -a | tail -n +2 >'$WORK/after'" Enter
	retry 100 on_screen "in all"
	is "$(setting alternate_on)" 1
	is "$(setting cursor_flag)" 0
}

# What was there before is there again.
ended() { # STATUS
	retry 100 on_screen "ended with $1"
	is "$(setting alternate_on) $(setting cursor_flag)" "0 1"
	retry 100 cmp -s "$WORK/before" "$WORK/after"
	rm "$WORK/after"
}

@test "-1: all once, as metrics and pods have it" {
	pod client "$TCP" dial 10.77.2.2 80 7
	run -0 "$WATCH" -p "$PIN" -1
	while read -r name number; do
		[[ $number = 0 && $name != *connects* ]] || [[ $output == *"$number  "* ]]
	done < <(grep -v '^#' "$PIN/metrics")
	grep -qE '^ +7  connects redirected outbound$' <<<"$output"
	grep -qE '^ +7  handovers handed_over$' <<<"$output"
	[[ $output != *map_full* ]] # none is
	# Those in the mesh come first.
	is "$(tail -n 3 <<<"$output" | sort)" "$(tail -n +2 "$PIN/pods" | sort)"
	is "$(sed -n '/^MESH/{n;p}' <<<"$output")" "$(grep '^in' "$PIN/pods")"
}

@test "what it cannot do: one line" {
	for options in "-p $WORK" "-p $WORK -1" "-n 0" "-n 1x" "-n x" "-x" "more"; do
		# shellcheck disable=SC2086 # words
		run -1 "$WATCH" -p "$PIN" $options
		is "$(grep -vc 'illegal option' <<<"$output")" 1
		has "onramp-watch: "
	done
}

@test "not a terminal: a line each time, with the rates" {
	"$WATCH" -p "$PIN" -n 0.5 >"$WORK/lines" 3>&- &
	watch=$!
	retry 100 grep -q redirected "$WORK/lines"
	pod client "$TCP" dial 10.77.2.2 80 50 >"$WORK/dialled"
	now=$(wc -l <"$WORK/lines")
	retry 100 sh -c "[ \$(wc -l <'$WORK/lines') -gt $((now + 1)) ]"
	kill $watch
	run ! grep -vE '^[0-9:]{8} redirected [0-9.]+/s, passed 0[.]0/s, refused 0[.]0/s; pods: 3, in the mesh: 1$' "$WORK/lines"
	# 50 in turns of half a second, and what a loaded machine adds to these.
	awk '{ sum += $3 } END { exit !(sum > 50 && sum <= 100) }' "$WORK/lines"
}

@test "in a terminal: redrawn in place as connections are made, and q ends it" {
	watch_up 80 24
	screen >"$WORK/screen"
	grep -q '^in .* 10.77.1.2$' "$WORK/screen"
	before=$(connects redirected outbound)
	pod client "$TCP" dial 10.77.2.2 80 30
	retry 100 on_screen " $((before + 30))  connects redirected outbound"
	is "$(screen | grep -c MESH)" 1
	is "$(screen | head -n 1 | cut -d , -f 1)" "onramp in $PIN"
	terminal send-keys x
	terminal send-keys q
	ended 0
	not_on_screen MESH
}

@test "it fits the window, however small, and follows its changes at once" {
	watch_up 80 24 1000
	terminal resize-window -x 30 -y 8
	# Where there is more to show than 24 lines hold, "..." was there before.
	retry 100 on_screen "... $(($("$WATCH" -p "$PIN" -1 | wc -l) - 7)) more"
	is "$(screen | wc -l)" 8
	is "$(screen | head -n 1)" "$(cut -c -30 <<<"onramp in $PIN")"
	terminal resize-window -x 100 -y 40
	retry 100 on_screen MESH
	not_on_screen "... "
	terminal send-keys q
	ended 0
}

@test "Ctrl-C and signals end it as cleanly" {
	watch_up 80 24
	terminal send-keys C-c
	ended 130
	terminal kill-server
	watch_up 80 24
	kill "$(pgrep -P "$(setting pane_pid)")"
	ended 143
}

@test "an unload and a load under its eyes" {
	"$WATCH" -p "$PIN" -n 0.1 >"$WORK/lines" 3>&- &
	watch=$!
	watch_up 80 24
	onramp unload
	retry 100 on_screen "not loaded"
	reload -e 10.77.1.0/24
	retry 100 on_screen MESH
	pod client "$TCP" dial 10.77.2.2 80 3
	retry 100 on_screen " 3  connects redirected outbound"
	terminal send-keys q
	ended 0
	kill $watch
	grep -q ' not loaded$' "$WORK/lines"
	run ! grep -vE '^[0-9:]{8} (not loaded|redirected [0-9.]+/s, .*)$' "$WORK/lines"
}
