#!/usr/bin/env bash
# The scenarios of the benchmark document, each with its result under benches/results as
# YYYYMMDD-SCENARIO.md, .csv and, where matplotlib is installed, .png.
#
#   tools/benchmarks/run_scenario.sh local          50 connections
#   tools/benchmarks/run_scenario.sh scaling        5, 20, 50 and 100 connections
#   tools/benchmarks/run_scenario.sh scaling-large  500 and 2000 connections
#   tools/benchmarks/run_scenario.sh cloud          models with a prefix; without WRK_TARGET against a
#                                                   stand-in on this machine (cloud_stand_in.py)
#
# The variables of run_wrk.sh say where to and with what key, and:
#
#   BENCH_SECONDS  of each run, default 30
#   BENCH_RUN      name of the result instead of the scenario's
#   BENCH_NOTE     a remark for the result
#   BENCH_RESULTS  folder instead of benches/results
#
# Exit code 1 if any answer was not 2xx or any connection failed; the result then says so. The long
# run is run_stability.sh.
set -euo pipefail
scenario=${1:-}
# shellcheck source=tools/benchmarks/library.sh
source "$(dirname "${BASH_SOURCE[0]}")/library.sh"

readonly seconds=${BENCH_SECONDS:-30}
[[ "$seconds" =~ ^[1-9][0-9]{0,3}$ ]] || fail "BENCH_SECONDS is 1 to 9999, not $seconds"
reports=()
commands=()
failures=0

# run LABEL CONNECTIONS: one run of wrk, its report kept under the label.
run() {
    local label=$1 connections=$2 arguments
    allow_connections "$connections"
    say "$label: $connections connections, $seconds s …"
    arguments=("-t$(thread_count "$connections")" "-c$connections" "-d${seconds}s" --latency)
    if ! "$benchmarks/run_wrk.sh" "${arguments[@]}" >"$work/$label.txt"; then
        failures=$((failures + 1))
    fi
    if grep -q '^Requests/sec:' "$work/$label.txt"; then
        reports+=("$label=$work/$label.txt")
        commands+=(--command "wrk ${arguments[*]}")
    fi
}

# conclude TARGET: writes the result.
conclude() {
    local run
    run=$results/$(date +%Y%m%d)-${BENCH_RUN:-$scenario}
    [ "${#reports[@]}" -gt 0 ] || fail 'nothing was measured'
    python3 "$benchmarks/write_report.py" --run "$run" --target "$1" "${commands[@]}" \
        --note "$(remarks)" "${reports[@]}"
    say "wrote $run.md and $run.csv"
    picture "$run.csv"
    python3 "$benchmarks/summarize_csv.py" "$run.csv"
    [ "$failures" -eq 0 ] || fail "$failures of the runs had answers that were not 2xx or failed connections"
}

scaling() {
    local connections
    for connections in "$@"; do
        run "$scenario-c$connections" "$connections"
    done
    conclude 'ローカル'
}

cloud() {
    if [ -z "${WRK_TARGET:-}" ]; then
        say 'cloud: the router has no cloud models yet; a mock node behind TLS stands in for the providers'
        BENCH_NOTE="${BENCH_NOTE:+$BENCH_NOTE; }a mock node behind TLS (cloud_stand_in.py) instead of providers" \
            exec "$benchmarks/cloud_stand_in.py" -- "${BASH_SOURCE[0]}" cloud
    fi
    local model provider providers=()
    local -a models=(openai:gpt-4o google:gemini-1.5-pro anthropic:claude-3-opus)
    [ -z "${WRK_MODEL:-}" ] || models=("$WRK_MODEL")
    for model in "${models[@]}"; do
        provider=${model%%:*}
        providers+=("$provider")
        WRK_MODEL=$model run "$scenario-$provider" 5
    done
    conclude "$(IFS=/ && printf '%s' "${providers[*]}")"
}

case "$scenario" in
    local)
        run local 50
        conclude 'ローカル'
        ;;
    scaling) scaling 5 20 50 100 ;;
    scaling-large) scaling 500 2000 ;;
    cloud) cloud ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
