#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# What files and peers may say to onramp-zds, at random, for a moment: that the fuzzer can be
# built, runs, and finds nothing at once. `make fuzz FUZZ_SECONDS=600` is what looks for more.

load helpers.bash

@test "ten seconds of what files and peers may say" {
	run -0 make -C "$ROOT" --no-print-directory fuzz FUZZ_SECONDS=10 FUZZ_DIR="$BATS_TEST_TMPDIR"
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' <<<"$output")
	[ "$runs" -gt 1000 ]
}
