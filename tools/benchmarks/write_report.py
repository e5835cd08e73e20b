#!/usr/bin/env python3
"""Writes wrk's reports as a result: Markdown in the template of seed document 3, and CSV.

    tools/benchmarks/write_report.py --run benches/results/20260102-local --target ローカル \\
        --command 'wrk -t2 -c50 -d30s' --note 'quiet machine' local=/tmp/wrk.txt

Each LABEL=FILE becomes a section and a row; with several there is a table of all at the end, and as
many --command, in the same order.
"""

import argparse
import io
import sys
import time

import bench_csv
import summarize_csv
import wrk_parse


def section(text, row, about):
    """One run in the template."""
    failed = wrk_parse.failures(text)
    sockets = wrk_parse.socket_errors(text)
    return "\n".join(
        (
            f"## {row['label']}",
            f"- 日時: {about['date']}",
            f"- 対象: {about['target']}",
            f"- コマンド: `{about['command']}`",
            "- 成果物:",
            f"  - RPS: {figure(row['rps'], 1)}",
            f"  - p95: {figure(row['p95_ms'], 3)} ms / p99: {figure(row['p99_ms'], 3)} ms",
            f"- 失敗: {row['non2xx'] + row['socket_errors']} ({breakdown(failed, sockets)})",
            f"- 備考: {about['note'] or 'なし'}",
            "",
        )
    )


def breakdown(failed, sockets):
    """4xx, 5xx and timeouts always; the rest only where there was any."""
    parts = [f"{name} {unknown(failed[name])}" for name in ("4xx", "5xx")]
    parts.append(f"timeout {sockets['timeout']}")
    if failed["other"]:
        parts.append(f"1xx/3xx {failed['other']}")
    parts += [f"{kind} {sockets[kind]}" for kind in ("connect", "read", "write") if sockets[kind]]
    return " / ".join(parts)


def unknown(count):
    return "?" if count is None else count


def figure(value, digits):
    return "–" if value is None else f"{value:.{digits}f}"


def markdown(runs, about):
    """The whole document of (text, row, command) runs."""
    parts = [section(text, row, {**about, "command": command}) for text, row, command in runs]
    if len(runs) > 1:
        out = io.StringIO()
        bench_csv.write([row for _, row, _ in runs], out)
        lines = [line.split(",") for line in out.getvalue().splitlines()[1:]]
        rows = [dict(zip(bench_csv.COLUMNS, line)) for line in lines]
        table = summarize_csv.table([(row, about["source"]) for row in rows])
        parts.append(f"## サマリ\n\n{table}\n")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="path without ending: .md and .csv are added")
    parser.add_argument("--target", required=True, help="ローカル, openai, google or anthropic")
    parser.add_argument(
        "--command", required=True, action="append", help="what was run; once for each report"
    )
    parser.add_argument("--note", default="", help="remarks")
    parser.add_argument("reports", nargs="+", metavar="LABEL=FILE", help="wrk's reports")
    options = parser.parse_args()
    if len(options.command) != len(options.reports):
        parser.error("as many --command as reports")
    runs = []
    for command, named in zip(options.command, options.reports):
        label, _, path = named.partition("=")
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        try:
            row = wrk_parse.parse(text, label)
        except wrk_parse.NotAReport as problem:
            sys.exit(f"write_report.py: {path}: {problem}")
        runs.append((text, row, command))
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "target": options.target,
        "note": options.note,
        "source": f"{options.run.rpartition('/')[2]}.csv",
    }
    with open(f"{options.run}.md", "w", encoding="utf-8") as file:
        file.write(markdown(runs, about))
    with open(f"{options.run}.csv", "w", newline="", encoding="utf-8") as file:
        bench_csv.write([row for _, row, _ in runs], file)


if __name__ == "__main__":
    main()
