#!/usr/bin/env bash
# sysbench through Holdfast's proxy, through HAProxy (tcp mode) and straight to MariaDB, in turns on one machine.
# Machines drift; ratios of the medians are what counts. Usage: proxy.sh HOLDFAST [ROUNDS [SECONDS]]
set -euo pipefail

holdfast=$(realpath "$1")
rounds=${2:-5}
seconds=${3:-6}
threads=16
dir=$(mktemp -d)
pids=()

stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap stop EXIT

wait_for() { # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "waited in vain for: $*" >&2; cat "$dir"/*.log >&2; exit 1; }
    sleep 0.2
  done
}

"$holdfast" dev --dir "$dir/dev" --nodes 2 --durability async --port 13306 >"$dir/dev.log" 2>&1 &
pids+=($!)
wait_for 120 grep -q '^Healthy' "$dir/dev.log"

# HAProxy where the proxy of the first node is, in front of the same engine.
cat >"$dir/haproxy.cfg" <<CFG
global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen db
  bind 127.0.0.11:13310
  server primary 127.0.0.11:13308
CFG
haproxy -db -f "$dir/haproxy.cfg" >"$dir/haproxy.log" 2>&1 &
pids+=($!)

sb() { # PORT TEST COMMAND
  sysbench --db-driver=mysql --mysql-host=127.0.0.11 --mysql-port="$1" --mysql-user=app --mysql-password=sandbox \
    --mysql-db=shop --tables=1 --table-size=10000 --threads=$threads --time="$seconds" --percentile=99 "$2" "$3"
}
wait_for 20 mariadb -h 127.0.0.11 -P 13310 -u app -psandbox shop -e 'SELECT 1'
sb 13308 oltp_read_write prepare >/dev/null

median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

declare -A port=([direct]=13308 [haproxy]=13310 [holdfast]=13306)
for test in oltp_point_select oltp_read_write; do
  for ((round = 1; round <= rounds; round++)); do
    for way in direct haproxy holdfast; do
      sb "${port[$way]}" $test run >"$dir/run.txt"
      awk '/queries:/ {gsub(/[(]/, "", $3); print $3}' "$dir/run.txt" >>"$dir/$test.$way.qps"
      awk '/99th percentile:/ {print $3}' "$dir/run.txt" >>"$dir/$test.$way.p99"
    done
  done
  echo "$test, $threads connections, $rounds rounds of $seconds s: median queries/s, p99 ms, ratio to HAProxy"
  base=$(median <"$dir/$test.haproxy.qps")
  for way in direct haproxy holdfast; do
    qps=$(median <"$dir/$test.$way.qps")
    p99=$(median <"$dir/$test.$way.p99")
    awk -v w=$way -v q="$qps" -v p="$p99" -v b="$base" 'BEGIN {printf "  %-9s %9.0f  %7.2f  %.2f\n", w, q, p, q / b}'
  done
done
