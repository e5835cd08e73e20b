#!/usr/bin/env python3
"""Runs a load, watches the router meanwhile, and judges whether it stayed as it was.

    tools/benchmarks/watch_router.py --target http://127.0.0.1:8080 --seconds 60 \\
        --samples /tmp/samples.csv --output /tmp/wrk.txt -- tools/benchmarks/run_wrk.sh -d60s

Figures come from GET /metrics, memory and descriptors from /proc where the process is known. The
load is ended half a minute after its time at the latest. Called by run_stability.sh.
"""

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

SAMPLE_COLUMNS = (
    "at_s",
    "rss_bytes",
    "open_fds",
    "connections",
    "in_flight",
    "answers",
    "non2xx",
    "disconnects",
    "node_failures",
    "retries",
    "panics",
)
# What a process may grow by that serves steadily, from its first quarter to its last.
RSS_GROWTH_MAX = 0.10
RSS_GROWTH_FLOOR_BYTES = 4 << 20
FDS_GROWTH_MAX = 16
# Requests whose client left have this status; they are counted as disconnects.
CLIENT_LEFT = "499"
LOAD_GRACE_S = 30
SETTLE_S = 10
METRIC = re.compile(r"^([a-z_:][a-z0-9_:]*)(?:\{([^}]*)\})? ([^ ]+)$", re.M | re.I)
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', re.I)


class Unreachable(Exception):
    """The router does not show its metrics."""


def read_metrics(text):
    """(name, labels, value) of every sample in the Prometheus text format."""
    return [
        (name, dict(LABEL.findall(labels or "")), float(value))
        for name, labels, value in METRIC.findall(text)
    ]


def total(metrics, name, wanted=lambda labels: True):
    """The sum over all series of a name; 0 if there is none."""
    return sum(value for own, labels, value in metrics if own == name and wanted(labels))


def sample(text, at_s, process):
    """One look at the router; `process` is (resident bytes, open descriptors) or None."""
    metrics = read_metrics(text)
    rss, fds = process or (
        total(metrics, "process_resident_memory_bytes"),
        total(metrics, "process_open_fds"),
    )
    refused = lambda labels: not labels["status"].startswith("2") and labels["status"] != CLIENT_LEFT
    return {
        "at_s": round(at_s, 1),
        "rss_bytes": int(rss),
        "open_fds": int(fds),
        "connections": int(total(metrics, "llm_router_connections_active")),
        "in_flight": int(total(metrics, "llm_router_requests_in_flight")),
        "answers": int(total(metrics, "llm_router_requests_total")),
        "non2xx": int(total(metrics, "llm_router_requests_total", refused)),
        "disconnects": int(total(metrics, "llm_router_cancelled_total")),
        "node_failures": int(total(metrics, "llm_router_node_failures_total")),
        "retries": int(total(metrics, "llm_router_retries_total")),
        "panics": int(total(metrics, "llm_router_panics_total")),
    }


def judge(before, under_load, after, load_succeeded):
    """Findings as (what, figure, whether it is as it should be)."""
    findings = [("load", "all answers 2xx" if load_succeeded else "failed", load_succeeded)]
    if len(under_load) < 2:
        return [*findings, ("looks", f"{len(under_load)} under load: too few to judge", False)]
    last = under_load[-1]
    for name, what in (
        ("non2xx", "answers that were not 2xx"),
        ("disconnects", "disconnected clients"),
        ("node_failures", "node failures"),
        ("panics", "panics"),
    ):
        rise = last[name] - before[name]
        findings.append((what, str(rise), rise == 0))
    if last["answers"] <= before["answers"]:
        findings.append(("answers", "none", False))
    first_rss, last_rss = ends(under_load, "rss_bytes")
    allowed = max(first_rss * RSS_GROWTH_MAX, RSS_GROWTH_FLOOR_BYTES)
    findings.append(
        (
            "resident memory, first to last quarter",
            f"{first_rss / 2**20:.1f} → {last_rss / 2**20:.1f} MiB",
            last_rss - first_rss <= allowed,
        )
    )
    first_fds, last_fds = ends(under_load, "open_fds")
    findings.append(
        (
            "open descriptors, first to last quarter",
            f"{first_fds:.0f} → {last_fds:.0f}",
            last_fds - first_fds <= FDS_GROWTH_MAX,
        )
    )
    findings.append(("in flight afterwards", str(after["in_flight"]), after["in_flight"] == 0))
    return findings


def ends(samples, name):
    """Medians of the first and the last quarter. The very first look is left out where there are
    more: buffers and pools fill then."""
    values = [each[name] for each in samples]
    settled = values[1:] if len(values) > 4 else values
    quarter = max(1, len(settled) // 4)
    return statistics.median(settled[:quarter]), statistics.median(settled[-quarter:])


def report(findings, samples, source):
    """Markdown for people."""
    lines = [f"| 安定性 ({len(samples)} looks, memory from {source}) | | |", "|---|---|---|"]
    for what, figure, is_good in findings:
        lines.append(f"| {what} | {figure} | {'ok' if is_good else 'NOT OK'} |")
    return "\n".join(lines)


def of_process(pid):
    """(resident bytes, open descriptors) from /proc."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


def listener(target):
    """The process on this machine that listens on the target's port, as far as one can be seen."""
    parts = urllib.parse.urlsplit(target)
    if parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return None
    port = parts.port or 80
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                inodes |= listening(file.read(), port)
        except OSError:
            continue
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for fd in fds:
            try:
                if os.readlink(f"/proc/{pid}/fd/{fd}") in sockets:
                    return int(pid)
            except OSError:
                continue
    return None


def listening(table, port):
    """Inodes of the sockets that listen on a port, from the text of /proc/net/tcp."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(fields[9])
    return found


class Watch:
    """Looks at one router."""

    def __init__(self, target, pid):
        self.url = target.rstrip("/") + "/metrics"
        self.pid = pid
        self.began = time.monotonic()

    def look(self):
        request = urllib.request.Request(self.url)
        if os.environ.get("WRK_API_KEY"):
            request.add_header("Authorization", f"Bearer {os.environ['WRK_API_KEY']}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read().decode()
            process = of_process(self.pid) if self.pid else None
        except (OSError, urllib.error.URLError) as problem:
            raise Unreachable(f"{self.url}: {problem}") from problem
        return sample(text, time.monotonic() - self.began, process)

    def settled(self):
        """The router after the load, once nothing is in flight or after SETTLE_S."""
        until = time.monotonic() + SETTLE_S
        while True:
            seen = self.look()
            if seen["in_flight"] == 0 or time.monotonic() > until:
                return seen
            time.sleep(0.2)


def under(watch, load, options):
    """Looks while the load runs; none in its last second, when wrk leaves amid its requests."""
    samples = []
    ends_at = time.monotonic() + options.seconds
    while load.poll() is None:
        if time.monotonic() > ends_at + LOAD_GRACE_S:
            load.terminate()
            break
        try:
            load.wait(options.interval)
        except subprocess.TimeoutExpired:
            seen = watch.look()
            if time.monotonic() < ends_at - 1:
                samples.append(seen)
    return samples


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--pid", default="auto")
    parser.add_argument("--samples", required=True, help="CSV file of every look")
    parser.add_argument("--output", required=True, help="what the load prints")
    parser.add_argument("load", nargs="+")
    options = parser.parse_args()
    # At least a few looks, however short the run.
    options.interval = max(0.1, min(options.interval, options.seconds / 8))
    pid = listener(options.target) if options.pid == "auto" else int(options.pid)
    watch = Watch(options.target, pid)
    try:
        before = watch.look()
        with open(options.output, "wb") as output:
            load = subprocess.Popen(options.load, stdin=subprocess.DEVNULL, stdout=output)
            try:
                samples = under(watch, load, options)
            finally:
                if load.poll() is None:
                    load.terminate()
                status = load.wait(LOAD_GRACE_S)
        after = watch.settled()
    except Unreachable as problem:
        sys.exit(f"watch_router.py: {problem}")
    with open(options.samples, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SAMPLE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([before, *samples, after])
    findings = judge(before, samples, after, status == 0)
    print(report(findings, samples, f"/proc/{pid}" if pid else "/metrics"))
    sys.exit(int(not all(is_good for _, _, is_good in findings)))


if __name__ == "__main__":
    main()
