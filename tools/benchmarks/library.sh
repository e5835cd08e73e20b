#!/usr/bin/env bash
# What the scenario scripts share. To be sourced; needs `set -euo pipefail`.

benchmarks=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
results=${BENCH_RESULTS:-$(cd "$benchmarks/../.." && pwd)/benches/results}
mkdir -p "$results"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

say() {
    printf '%s\n' "$*" >&2
}

# usage: prints the comment at the head of the calling script.
usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
}

# Threads for wrk: no more than connections, cores, or ten.
thread_count() {
    local count
    count=$(nproc)
    [ "$count" -le 10 ] || count=10
    [ "$count" -le "$1" ] || count=$1
    printf '%s' "$count"
}

# Each connection is a descriptor here.
allow_connections() {
    local wanted=$(($1 + 100))
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge "$wanted" ] || ulimit -n "$wanted" ||
        fail "$1 connections need $wanted open files; the limit is $(ulimit -Hn)"
}

# What the remarks say: the user's own (BENCH_NOTE), then the machine.
remarks() {
    printf '%s%s cores, Linux %s, load average %s' "${BENCH_NOTE:+$BENCH_NOTE; }" \
        "$(nproc)" "$(uname -r)" "$(cut -d' ' -f1 /proc/loadavg)"
}

# The picture beside a CSV file, where matplotlib is installed.
picture() {
    if python3 -c 'import matplotlib' 2>/dev/null; then
        python3 "$benchmarks/plot_csv.py" -o "${1%.csv}.png" --title "$(basename "${1%.csv}")" "$1"
        say "drew ${1%.csv}.png"
    else
        say "no picture: matplotlib is not installed (pip install matplotlib)"
    fi
}
