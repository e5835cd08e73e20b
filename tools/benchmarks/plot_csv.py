#!/usr/bin/env python3
"""Draws p95, p99 and RPS of result files.

    pip install matplotlib
    python3 tools/benchmarks/plot_csv.py -o benches/results/plot.png benches/results/*.csv

Files with other columns are passed over with a note.
"""

import argparse
import sys

import bench_csv
import summarize_csv

BAR_WIDTH = 0.38
ROWS_MAX = 200


def series(rows):
    """Labels, p95, p99 and RPS, one entry per row; a figure that is missing is None."""
    return (
        [row["label"] for row in rows],
        [bench_csv.number(row["p95_ms"]) for row in rows],
        [bench_csv.number(row["p99_ms"]) for row in rows],
        [bench_csv.number(row["rps"]) for row in rows],
    )


def draw(rows, title, out):
    """Writes the picture: latency as bars above, throughput below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels, p95, p99, rps = series(rows)
    places = list(range(len(labels)))
    size = (max(7.0, 0.55 * len(labels) + 2.5), 7.5)
    figure, (latency, rate) = pyplot.subplots(2, 1, figsize=size, sharex=True)
    for offset, name, values in ((-0.5, "p95", p95), (0.5, "p99", p99)):
        latency.bar(
            [place + offset * BAR_WIDTH for place in places],
            [value or 0.0 for value in values],
            BAR_WIDTH,
            label=name,
        )
    latency.set_ylabel("latency, ms")
    latency.legend()
    rate.bar(places, [value or 0.0 for value in rps], 2 * BAR_WIDTH, color="tab:green")
    rate.set_ylabel("requests/s")
    rate.set_xticks(places, labels, rotation=60, ha="right", fontsize=8)
    for axes in (latency, rate):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    if title:
        figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", required=True, help="the picture, such as plot.png")
    parser.add_argument("--title", default="", help="a line above it")
    parser.add_argument("csv", nargs="+", help="files with results")
    options = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        sys.exit("plot_csv.py: matplotlib is needed and was not found: pip install matplotlib")
    found, notes = summarize_csv.gather(options.csv)
    for note in notes:
        print(f"plot_csv.py: {note}", file=sys.stderr)
    rows = [row for row, _ in found]
    if not rows:
        sys.exit("plot_csv.py: none of these files has results")
    if len(rows) > ROWS_MAX:
        sys.exit(f"plot_csv.py: {len(rows)} runs are too many for one picture (at most {ROWS_MAX})")
    draw(rows, options.title, options.output)


if __name__ == "__main__":
    main()
