#!/usr/bin/env python3
"""Several result files as one Markdown table.

    tools/benchmarks/summarize_csv.py benches/results/*.csv

Columns: label / rps / p95_ms / p99_ms / non2xx / socket_errors / requests / duration_s / source.
Files with other columns are passed over with a note, so that the whole folder can be named.
"""

import argparse
import os
import sys

import bench_csv

SHOWN = ("label", "rps", "p95_ms", "p99_ms", "non2xx", "socket_errors", "requests", "duration_s")


def table(rows):
    """The Markdown table of (row, source) pairs."""
    lines = [
        "| " + " | ".join((*SHOWN, "source")) + " |",
        "|" + "---|" * (len(SHOWN) + 1),
    ]
    for row, source in rows:
        cells = [row[name] or "–" for name in SHOWN] + [source]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def gather(paths):
    """(row, file name) pairs of all files that hold results, and a note for each that does not."""
    rows, notes = [], []
    for path in paths:
        try:
            rows += [(row, os.path.basename(path)) for row in bench_csv.read(path)]
        except (bench_csv.NotResults, OSError, UnicodeDecodeError) as problem:
            notes.append(f"passed over: {problem}")
    return rows, notes


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", nargs="+", help="files with results")
    rows, notes = gather(parser.parse_args().csv)
    for note in notes:
        print(f"summarize_csv.py: {note}", file=sys.stderr)
    if not rows:
        sys.exit("summarize_csv.py: none of these files has results")
    print(table(rows))


if __name__ == "__main__":
    main()
