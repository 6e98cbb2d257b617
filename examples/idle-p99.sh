#!/usr/bin/env bash
# Does a million idle connections slow down those that are active? Two servers with the same loops
# and tables: one also carries the idle ones, the other nothing else. Active clients go to one and
# the other in turn, an open load at a fixed rate each; the ratio of each pair of p99 is printed,
# and at last the median of the ratios.
#
#     cargo build --release && examples/idle-p99.sh [IDLE] [LOOPS] [PAIRS]
set -euo pipefail
idle=${1:-1000000} loops=${2:-52} pairs=${3:-10}
bin=${CARGO_TARGET_DIR:-target}/release/million
active=1200 every=${PING_EVERY:-40ms} # 30,000 a second: 30% of what an echo run reaches here
work=$(mktemp -d)
pids=()
leave() {
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap leave EXIT

serve() { # name; sets at
  "$bin" serve --listen 127.0.0.1:0 --loops "$loops" --fd-table per-loop \
    --connections "$((idle + active))" >"$work/$1" 2>"$work/$1.err" &
  pids+=("$!")
  at=''
  while [ -z "$at" ]; do
    kill -0 "${pids[-1]}" || { cat "$work/$1.err" >&2; exit 1; }
    sleep 0.1
    at=$(sed -n 's/^READY //p' "$work/$1")
  done
}

p99() { # target
  "$bin" swarm --target "$1" --connections "$active" --active 100% --ping-every "$every" \
    --hold 5s --json "$work/active/report.json" >/dev/null 2>"$work/active.err" ||
    { cat "$work/active.err" >&2; exit 1; }
  sed -n 's/^ *"p99_us": \([0-9.]*\),$/\1/p;T;q' "$work/active/report.json" # the first: the hold's
}

mkdir "$work/active"
serve empty && empty=$at
serve full && full=$at
"$bin" swarm --target "$full" --connections "$idle" --active 0% --hold 1h \
  --json "$work/idle/report.json" >/dev/null 2>"$work/idle.err" &
pids+=("$!")
until grep -q '^all are held' "$work/idle.err"; do
  kill -0 "${pids[-1]}" || { cat "$work/idle.err" >&2; exit 1; }
  sleep 1
done
echo "$idle idle connections are up"
p99 "$empty" >/dev/null # warms both up, and is not counted
p99 "$full" >/dev/null
for pair in $(seq "$pairs"); do
  # Which of the two goes first alternates, so that neither has the quieter half of each pair.
  if [ $((pair % 2)) = 1 ]; then a=$(p99 "$empty") b=$(p99 "$full"); else b=$(p99 "$full") a=$(p99 "$empty"); fi
  awk -v n="$pair" -v a="$a" -v b="$b" \
    'BEGIN { printf "pair %d: none %.0f us, idle %.0f us, ratio %.2f\n", n, a, b, b / a }'
done | tee "$work/pairs"
sed 's/.*ratio //' "$work/pairs" | sort -n |
  awk '{ r[NR] = $1 } END { print "median ratio:", (r[int((NR + 1) / 2)] + r[int(NR / 2) + 1]) / 2 }'
