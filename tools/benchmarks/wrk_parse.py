#!/usr/bin/env python3
"""Turns wrk's report into one CSV row.

    tools/benchmarks/run_wrk.sh -t2 -c50 -d30s | tools/benchmarks/wrk_parse.py --label local

Columns: label,rps,p50_ms,p75_ms,p90_ms,p95_ms,p99_ms,non2xx,socket_errors,requests,duration_s.
p50 to p99 need wrk's --latency, p95 the `done` hook of chat_openai.lua; a field the report does not
tell stays empty.
"""

import argparse
import re
import sys

import bench_csv

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
TOTALS = re.compile(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h), ", re.M)
RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.M)
SOCKET_ERRORS = re.compile(
    r"^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", re.M
)
NON_2XX = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)", re.M)
# What the `done` hook of chat_openai.lua adds.
HOOK_P95 = re.compile(r"^p95: ([\d.]+) ms$", re.M)
HOOK_NON_2XX = re.compile(r"^non-2xx: (\d+) \(4xx (\d+), 5xx (\d+), other (\d+)\)$", re.M)
HOOK_FIRST = re.compile(r"^first non-2xx answer: (.*)$", re.M)


class NotAReport(Exception):
    """The text is not a whole report of wrk."""


def parse(text, label):
    """The row of one report, a mapping of bench_csv.COLUMNS."""
    totals, rate = TOTALS.search(text), RATE.search(text)
    if totals is None or rate is None:
        raise NotAReport("not a whole report of wrk: no total or no Requests/sec")
    hook_p95 = HOOK_P95.search(text)
    return {
        "label": label,
        "rps": float(rate[1]),
        "p50_ms": percentile(text, 50),
        "p75_ms": percentile(text, 75),
        "p90_ms": percentile(text, 90),
        "p95_ms": float(hook_p95[1]) if hook_p95 else None,
        "p99_ms": percentile(text, 99),
        "non2xx": failures(text)["non2xx"],
        "socket_errors": sum(int(count) for count in socket_errors(text).values()),
        "requests": int(totals[1]),
        "duration_s": float(totals[2]) * MILLISECONDS[totals[3]] / 1000,
    }


def percentile(text, percent):
    """Latency in ms from the distribution --latency prints, or None."""
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m|h)\s*$", text, re.M)
    return float(found[1]) * MILLISECONDS[found[2]] if found else None


def socket_errors(text):
    """Failed connections by kind; wrk says nothing where there were none."""
    found = SOCKET_ERRORS.search(text)
    counts = [int(count) for count in found.groups()] if found else [0, 0, 0, 0]
    return dict(zip(("connect", "read", "write", "timeout"), counts))


def failures(text):
    """Answers that were not 2xx. Without the hook their classes are None, and 3xx go unseen."""
    hook = HOOK_NON_2XX.search(text)
    if hook:
        counts = [int(count) for count in hook.groups()]
        return dict(zip(("non2xx", "4xx", "5xx", "other"), counts))
    plain = NON_2XX.search(text)
    count = int(plain[1]) if plain else 0
    classes = None if count else 0
    return {"non2xx": count, "4xx": classes, "5xx": classes, "other": classes}


def objections(text, row):
    """Why the run does not count; empty if it does."""
    out = []
    if row["requests"] == 0:
        out.append("no request was answered")
    if row["non2xx"]:
        first = HOOK_FIRST.search(text)
        out.append(
            f"{row['non2xx']} of {row['requests']} answers were not 2xx"
            + (f"; the first: {first[1]}" if first else "")
        )
    if row["socket_errors"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in socket_errors(text).items())
        out.append(f"connections failed: {kinds}")
    return out


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", help="wrk's report; default: standard input")
    parser.add_argument("--label", default="run", help="what to call the run (default: run)")
    parser.add_argument("--no-header", action="store_true", help="only the row, to append it")
    parser.add_argument(
        "--strict", action="store_true", help="exit code 1 if any request failed"
    )
    options = parser.parse_args()
    if options.file:
        with open(options.file, encoding="utf-8", errors="replace") as file:
            text = file.read()
    else:
        text = sys.stdin.read()
    try:
        row = parse(text, options.label)
    except NotAReport as problem:
        sys.exit(f"wrk_parse.py: {problem}")
    bench_csv.write([row], sys.stdout, header=not options.no_header)
    if options.strict:
        objected = objections(text, row)
        for objection in objected:
            print(f"wrk_parse.py: {objection}", file=sys.stderr)
        sys.exit(int(bool(objected)))


if __name__ == "__main__":
    main()
