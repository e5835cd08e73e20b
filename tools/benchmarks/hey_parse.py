#!/usr/bin/env python3
"""Turns hey's report into one CSV row with the columns of wrk_parse.py.

    tools/benchmarks/run_hey.sh -n 200 -c 20 | tools/benchmarks/hey_parse.py --label cloud
"""

import argparse
import re
import sys

import bench_csv

TOTAL = re.compile(r"^\s*Total:\s+([\d.]+) secs", re.M)
RATE = re.compile(r"^\s*Requests/sec:\s+([\d.]+)", re.M)
STATUS = re.compile(r"^\s*\[(\d{3})\]\s+(\d+) responses", re.M)
ERRORS = re.compile(r"^Error distribution:\n((?:\s+\[\d+\].*\n?)+)", re.M)


class NotAReport(Exception):
    """The text is not a whole report of hey."""


def parse(text, label):
    """The row of one report, a mapping of bench_csv.COLUMNS."""
    total, rate = TOTAL.search(text), RATE.search(text)
    if total is None or rate is None:
        raise NotAReport("not a whole report of hey: no Total or no Requests/sec")
    answers = {int(status): int(count) for status, count in STATUS.findall(text)}
    return {
        "label": label,
        "rps": float(rate[1]),
        "p50_ms": percentile(text, 50),
        "p75_ms": percentile(text, 75),
        "p90_ms": percentile(text, 90),
        "p95_ms": percentile(text, 95),
        "p99_ms": percentile(text, 99),
        "non2xx": sum(count for status, count in answers.items() if not 200 <= status < 300),
        "socket_errors": errors(text),
        "requests": sum(answers.values()),
        "duration_s": float(total[1]),
    }


def percentile(text, percent):
    """Latency in ms; None if there were too few answers for it."""
    found = re.search(rf"^\s+{percent}% in ([\d.]+) secs", text, re.M)
    value = float(found[1]) * 1000 if found else 0.0
    return value or None


def errors(text):
    """Requests without an answer."""
    listed = ERRORS.search(text)
    return sum(int(count) for count in re.findall(r"^\s+\[(\d+)\]", listed[1], re.M)) if listed else 0


def objections(row):
    """Why the run does not count; empty if it does."""
    out = []
    if row["requests"] == 0:
        out.append("no request was answered")
    if row["non2xx"]:
        out.append(f"{row['non2xx']} of {row['requests']} answers were not 2xx")
    if row["socket_errors"]:
        out.append(f"{row['socket_errors']} requests got no answer")
    return out


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", help="hey's report; default: standard input")
    parser.add_argument("--label", default="run", help="what to call the run (default: run)")
    parser.add_argument("--no-header", action="store_true", help="only the row, to append it")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if any request failed")
    options = parser.parse_args()
    if options.file:
        with open(options.file, encoding="utf-8", errors="replace") as file:
            text = file.read()
    else:
        text = sys.stdin.read()
    try:
        row = parse(text, options.label)
    except NotAReport as problem:
        sys.exit(f"hey_parse.py: {problem}")
    bench_csv.write([row], sys.stdout, header=not options.no_header)
    if options.strict:
        objected = objections(row)
        for objection in objected:
            print(f"hey_parse.py: {objection}", file=sys.stderr)
        sys.exit(int(bool(objected)))


if __name__ == "__main__":
    main()
