#!/usr/bin/env bash
# One wrk run against an OpenAI-compatible address. wrk's report goes to stdout; the run fails (exit
# code 1) if any answer was not 2xx or any connection failed, because such a figure means nothing.
#
#   WRK_API_KEY=sk-demo WRK_MODEL=llama-3.2-1b tools/benchmarks/run_wrk.sh -t2 -c50 -d30s
#   tools/benchmarks/run_wrk.sh -t2 -c50 -d30s | tools/benchmarks/wrk_parse.py --label local
#
# Arguments are wrk's; without any: -t2 -c50 -d30s. Added where missing: --latency, and
# --timeout 60s, because wrk's own 2 s are less than a model takes.
#
#   WRK_TARGET     default http://localhost:8080
#   WRK_ENDPOINT   default /v1/chat/completions
#   WRK_MODEL      default gpt-oss:20b
#   WRK_BODY_JSON  the whole JSON body instead of a short chat with WRK_MODEL
#   WRK_API_KEY    sent as a bearer token; default none
#   WRK_SCRIPT     a Lua script of your own; default chat_openai.lua, which prints p95
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

fail() {
    printf 'run_wrk.sh: %s\n' "$*" >&2
    exit 1
}

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac
command -v wrk >/dev/null || fail 'wrk is needed and was not found; on Debian: apt-get install wrk'
command -v python3 >/dev/null || fail 'python3 is needed and was not found'

target=${WRK_TARGET:-http://localhost:8080}
endpoint=${WRK_ENDPOINT:-/v1/chat/completions}
script=${WRK_SCRIPT:-$here/chat_openai.lua}
[ -r "$script" ] || fail "WRK_SCRIPT: cannot read $script"
readonly url=${target%/}/${endpoint#/}

arguments=("$@")
[ "${#arguments[@]}" -gt 0 ] || arguments=(-t2 -c50 -d30s)
case " ${arguments[*]} " in
    *' --latency '*) ;;
    *) arguments+=(--latency) ;;
esac
case " ${arguments[*]}" in
    *' --timeout'* | *' -T'*) ;;
    *) arguments+=(--timeout 60s) ;;
esac

said=$(mktemp)
trap 'rm -f "$said"' EXIT
status=0
wrk "${arguments[@]}" -s "$script" "$url" </dev/null 2>&1 | tee "$said" || status=$?
[ "$status" -eq 0 ] || fail "wrk ended with exit code $status"
python3 "$here/wrk_parse.py" --strict "$said" >/dev/null || fail "the run against $url does not count"
