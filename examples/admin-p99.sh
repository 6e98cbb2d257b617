#!/usr/bin/env bash
# What does it cost the loops to be looked at? A server with a million idle connections; active clients,
# an open load at a fixed rate, in turn while nobody asks and while /metrics is read ten times a second. The
# ratio of each pair of p99 is printed, their median, and how long the answers took.
#
#     cargo build --release && examples/admin-p99.sh [IDLE] [LOOPS] [PAIRS] [PATH]
source "$(dirname "$0")/p99.bash"
idle=${1:-1000000} loops=${2:-52} number=${3:-10} path=${4:-/metrics}
admin=127.0.0.1:9163

serve server "$loops" "$((idle + active))" --admin "$admin"
hold_idle "$at" "$idle"
quiet() { p99 "$at"; }
asked() {
  while sleep 0.1; do
    curl -s -o "$work/answer" -w '%{http_code} %{time_total} %{size_download}\n' \
      "http://$admin$path" >>"$work/answers"
  done &
  local asker=$!
  p99 "$at"
  kill "$asker"
}
quiet >/dev/null # warms it up, and is not counted
pairs "$number" quiet quiet asked asked
grep -c '^200 ' "$work/answers" | sed 's/$/ answers with 200/'
sort -k2n "$work/answers" | awk '{ t[NR] = $2 * 1000; bytes = $3 }
  END { printf "median %.1f ms, longest %.1f ms; %d bytes\n", t[int((NR + 1) / 2)], t[NR], bytes }'
