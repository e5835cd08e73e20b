#!/usr/bin/env bash
# One hey run against an OpenAI-compatible address: a fixed number of requests, for what costs money
# or time. hey's report goes to stdout; the run fails (exit code 1) if any answer was not 2xx or any
# request got none.
#
#   WRK_API_KEY=sk-demo WRK_MODEL=llama-3.2-1b tools/benchmarks/run_hey.sh -n 200 -c 20
#
# Arguments are hey's; without any: -n 200 -c 20. The same variables as run_wrk.sh, without
# WRK_SCRIPT: WRK_TARGET, WRK_ENDPOINT, WRK_MODEL, WRK_BODY_JSON, WRK_API_KEY. hey takes the key as an
# argument: other users of this machine can see it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

fail() {
    printf 'run_hey.sh: %s\n' "$*" >&2
    exit 1
}

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac
command -v hey >/dev/null ||
    fail 'hey is needed and was not found; on Debian: apt-get install hey; or use run_wrk.sh'
command -v python3 >/dev/null || fail 'python3 is needed and was not found'

target=${WRK_TARGET:-http://localhost:8080}
endpoint=${WRK_ENDPOINT:-/v1/chat/completions}
readonly url=${target%/}/${endpoint#/}
body=${WRK_BODY_JSON:-$(python3 -c 'import json, sys; print(json.dumps(
    {"model": sys.argv[1], "messages": [{"role": "user", "content": "ping"}]}
))' "${WRK_MODEL:-gpt-oss:20b}")}
headers=()
[ -z "${WRK_API_KEY:-}" ] || headers=(-H "Authorization: Bearer $WRK_API_KEY")
arguments=("$@")
[ "${#arguments[@]}" -gt 0 ] || arguments=(-n 200 -c 20)
case " ${arguments[*]}" in
    # hey's own limit is 20 s.
    *' -t '*) ;;
    *) arguments+=(-t 60) ;;
esac

said=$(mktemp)
trap 'rm -f "$said"' EXIT
status=0
hey "${arguments[@]}" -m POST -T application/json ${headers[@]+"${headers[@]}"} -d "$body" "$url" \
    </dev/null 2>&1 | tee "$said" || status=$?
[ "$status" -eq 0 ] || fail "hey ended with exit code $status"
python3 "$here/hey_parse.py" --strict "$said" >/dev/null || fail "the run against $url does not count"
