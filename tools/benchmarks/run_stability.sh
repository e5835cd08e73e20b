#!/usr/bin/env bash
# The long run: load for MINUTES, and a look at the router every few seconds. Fails if memory or
# descriptors grow, if a client is disconnected, if an answer is not 2xx, or if anything is still
# counted as in flight afterwards.
#
#   WRK_API_KEY=sk-demo WRK_MODEL=llama-3.2-1b tools/benchmarks/run_stability.sh 30
#
# MINUTES is more than 0 and at most 240; fractions are allowed. The variables of run_wrk.sh, and:
#
#   STABILITY_CONNECTIONS  default 50
#   STABILITY_INTERVAL     seconds between two looks, default 5
#   ROUTER_PID             the router's process; by default the one that listens on WRK_TARGET's
#                          port, if it is on this machine and can be seen; else only /metrics counts
#   BENCH_RUN, BENCH_NOTE, BENCH_RESULTS  as in run_scenario.sh
#
# Other clients of the router count too: it should have none. Results: YYYYMMDD-stability.md and .csv,
# and every look in YYYYMMDD-stability-samples.csv.
set -euo pipefail
minutes=${1:-}
case "$minutes" in
    '' | -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        [ -n "$minutes" ]
        exit
        ;;
esac
# shellcheck source=tools/benchmarks/library.sh
source "$(dirname "${BASH_SOURCE[0]}")/library.sh"

seconds=$(awk -v minutes="$minutes" 'BEGIN {
    if (minutes !~ /^[0-9]+([.][0-9]+)?$/ || minutes <= 0 || minutes > 240) exit 1
    printf "%d", minutes * 60 + 0.5
}') || fail "MINUTES is more than 0 and at most 240, not $minutes"
[ "$seconds" -ge 5 ] || fail 'at least 5 seconds (0.1 minutes)'
readonly connections=${STABILITY_CONNECTIONS:-50}
[[ "$connections" =~ ^[1-9][0-9]{0,4}$ ]] || fail "STABILITY_CONNECTIONS is 1 to 99999, not $connections"
allow_connections "$connections"
threads=$(thread_count "$connections")
run=$results/$(date +%Y%m%d)-${BENCH_RUN:-stability}

say "$connections connections for $seconds s …"
status=0
python3 "$benchmarks/watch_router.py" --target "${WRK_TARGET:-http://localhost:8080}" \
    --seconds "$seconds" --interval "${STABILITY_INTERVAL:-5}" --pid "${ROUTER_PID:-auto}" \
    --samples "$run-samples.csv" --output "$work/wrk.txt" -- \
    "$benchmarks/run_wrk.sh" -t"$threads" -c"$connections" -d"${seconds}s" --latency \
    >"$work/verdict.txt" || status=$?
cat "$work/verdict.txt"
grep -q '^Requests/sec:' "$work/wrk.txt" 2>/dev/null || fail 'the load did not run to its end'
python3 "$benchmarks/write_report.py" --run "$run" --target 'ローカル' \
    --command "wrk -t$threads -c$connections -d${seconds}s --latency" \
    --note "$(remarks)" "$(basename "${run#*-}")=$work/wrk.txt"
{
    printf '\n'
    cat "$work/verdict.txt"
} >>"$run.md"
picture "$run.csv"
say "wrote $run.md, $run.csv and $run-samples.csv"
[ "$status" -eq 0 ] || fail 'the router was not stable'
