"""The CSV format of benchmark results: one row per run. Nothing here measures or draws."""

import csv
import math

COLUMNS = (
    "label",
    "rps",
    "p50_ms",
    "p75_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "non2xx",
    "socket_errors",
    "requests",
    "duration_s",
)


class NotResults(Exception):
    """The file is not a CSV file of results."""


def write(rows, out, header=True):
    """Writes rows, which are mappings of COLUMNS; what a run did not tell is None and stays empty."""
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(row[name]) for name in COLUMNS})


def read(path):
    """The rows of a file as mappings of strings.

    Raises NotResults if it has other columns or rows of another length.
    """
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise NotResults(f"{path}: not the columns {','.join(COLUMNS)}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS):
            raise NotResults(f"{path}:{number}: {len(line)} fields instead of {len(COLUMNS)}")
    return [dict(zip(COLUMNS, line)) for line in lines[1:]]


def number(text):
    """The figure in a field, or None if the run did not tell it."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _text(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)
