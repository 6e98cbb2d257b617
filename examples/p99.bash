# What the scripts beside this share: servers and swarms of `million`, and pairs of p99. Sourced.
set -euo pipefail
bin=${CARGO_TARGET_DIR:-target}/release/million
active=1200 every=${PING_EVERY:-40ms} # 30,000 a second: 30% of what an echo run reaches here
work=$(mktemp -d)
mkdir "$work/active"
pids=()
leave() {
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap leave EXIT

serve() { # name loops connections [flag ...]; sets at
  local name=$1 loops=$2 connections=$3
  shift 3
  "$bin" serve --listen 127.0.0.1:0 --loops "$loops" --fd-table per-loop \
    --connections "$connections" "$@" >"$work/$name" 2>"$work/$name.err" &
  pids+=("$!")
  at=''
  while [ -z "$at" ]; do
    kill -0 "${pids[-1]}" || { cat "$work/$name.err" >&2; exit 1; }
    sleep 0.1
    at=$(sed -n 's/^READY //p' "$work/$name")
  done
}

hold_idle() { # target connections; returns when all are up
  "$bin" swarm --target "$1" --connections "$2" --active 0% --hold 1h \
    --json "$work/idle/report.json" >/dev/null 2>"$work/idle.err" &
  pids+=("$!")
  until grep -q '^all are held' "$work/idle.err"; do
    kill -0 "${pids[-1]}" || { cat "$work/idle.err" >&2; exit 1; }
    sleep 1
  done
  echo "$2 idle connections are up"
}

p99() { # target
  "$bin" swarm --target "$1" --connections "$active" --active 100% --ping-every "$every" \
    --hold 5s --json "$work/active/report.json" >/dev/null 2>"$work/active.err" ||
    { cat "$work/active.err" >&2; exit 1; }
  sed -n 's/^ *"p99_us": \([0-9.]*\),$/\1/p;T;q' "$work/active/report.json" # the first: the hold's
}

pairs() { # number, name and command of one arm, name and command of the other
  for pair in $(seq "$1"); do
    # Which of the two goes first alternates, so that neither has the quieter half of each pair.
    if [ $((pair % 2)) = 1 ]; then a=$($3) b=$($5); else b=$($5) a=$($3); fi
    awk -v n="$pair" -v x="$2" -v y="$4" -v a="$a" -v b="$b" \
      'BEGIN { printf "pair %d: %s %.0f us, %s %.0f us, ratio %.2f\n", n, x, a, y, b, b / a }'
  done | tee "$work/pairs"
  sed 's/.*ratio //' "$work/pairs" | sort -n |
    awk '{ r[NR] = $1 } END { print "median ratio:", (r[int((NR + 1) / 2)] + r[int(NR / 2) + 1]) / 2 }'
}
