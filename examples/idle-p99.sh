#!/usr/bin/env bash
# Does a million idle connections slow down those that are active? Two servers with the same loops
# and tables: one also carries the idle ones, the other nothing else. Active clients go to one and
# the other in turn, an open load at a fixed rate each; the ratio of each pair of p99 is printed,
# and at last the median of the ratios.
#
#     cargo build --release && examples/idle-p99.sh [IDLE] [LOOPS] [PAIRS]
source "$(dirname "$0")/p99.bash"
idle=${1:-1000000} loops=${2:-52} number=${3:-10}

serve empty "$loops" "$((idle + active))" && empty=$at
serve full "$loops" "$((idle + active))" && full=$at
hold_idle "$full" "$idle"
p99_empty() { p99 "$empty"; }
p99_full() { p99 "$full"; }
p99_empty >/dev/null # warms both up, and is not counted
p99_full >/dev/null
pairs "$number" none p99_empty idle p99_full
