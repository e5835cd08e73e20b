"""Runs the official OpenAI SDKs for Python and Node, and plain HTTP clients, against the binary.

    python3 tests/sdk/run.py path/to/llm-router

Everything runs once on io_uring (where the kernel allows it) and once on epoll. The last line has
the counts; the exit code is 0 only if every test ran and passed. tools/test calls this in the
environment that tools/setup has made.
"""

import os
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

try:
    import aiohttp  # noqa: F401
    import httpx  # noqa: F401
    import openai  # noqa: F401
    import requests  # noqa: F401
except ImportError as missing:
    sys.exit(f"{missing}: run tools/setup, then tools/test")

import stack

HERE = Path(__file__).resolve().parent
NODE_SECONDS_MAX = 180


class Counts:
    """What ran so far."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    def add_python(self, result):
        bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
        self.skipped += len(result.skipped)
        self.failed += bad
        self.passed += result.testsRun - bad - len(result.skipped)

    def add_node(self, report, returncode):
        found = dict(re.findall(r"^# (pass|fail|cancelled|skipped|todo) (\d+)$", report, re.M))
        bad = int(found.get("fail", 0)) + int(found.get("cancelled", 0))
        self.passed += int(found.get("pass", 0))
        self.skipped += int(found.get("skipped", 0)) + int(found.get("todo", 0))
        # A run that breaks down before its first test must not look like a success.
        broke_down = bad == 0 and (returncode != 0 or int(found.get("pass", 0)) == 0)
        self.failed += bad + int(broke_down)

    def add(self, title, passed):
        print(f"{title} ... {'ok' if passed else 'FAIL'}", flush=True)
        self.passed += int(passed)
        self.failed += int(not passed)


def run_python(module):
    suite = unittest.defaultTestLoader.loadTestsFromName(module)
    return unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)


def run_node(counts, script):
    node = shutil.which("node")
    modules = Path(sys.prefix) / "node_modules"
    if node is None or not (modules / "openai").is_dir():
        sys.exit("no Node or no openai package for it: run tools/setup, then tools/test")
    try:
        finished = subprocess.run(
            [node, "--test", "--test-reporter=tap", str(HERE / script)],
            env={**os.environ, "NODE_PATH": str(modules)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=NODE_SECONDS_MAX,
        )
        report, returncode = finished.stdout, finished.returncode
    except subprocess.TimeoutExpired as late:
        report, returncode = f"{late.stdout or ''}\nstopped after {late.timeout} s", 1
    lines = report.splitlines()
    shown = lines if returncode else [line for line in lines if re.match(r"(not )?ok ", line)]
    print("\n".join(shown), flush=True)
    counts.add_node(report, returncode)


def run_on(binary, io_driver, counts):
    print(f"\n--- io_driver = {io_driver}", flush=True)
    running = stack.Stack(binary, io_driver)
    try:
        os.environ["LLM_ROUTER_TEST_URL"] = running.url
        os.environ["LLM_ROUTER_TEST_NODES"] = ",".join(running.nodes.values())
        for module in ("test_openai", "test_http"):
            counts.add_python(run_python(module))
        run_node(counts, "openai.test.cjs")
    finally:
        code = running.close()
    counts.add("the router drains and exits with 0 on SIGTERM", code == 0)
    if code != 0:
        print(f"exit code {code}\n{running.router.output()}")
    run_queue_on(binary, io_driver, counts)


def run_queue_on(binary, io_driver, counts):
    """Clients whose requests wait; the Python tests bring a router each."""
    os.environ["LLM_ROUTER_TEST_IO_DRIVER"] = io_driver
    counts.add_python(run_python("test_queue"))
    queueing = stack.QueueStack(binary, io_driver, **stack.WAITING_STREAMS)
    try:
        os.environ["LLM_ROUTER_TEST_QUEUE_URL"] = queueing.url
        run_node(counts, "queue.test.cjs")
    finally:
        queueing.close()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(HERE))
    os.environ["LLM_ROUTER_TEST_BINARY"] = str(binary)
    counts = Counts()
    try:
        for io_driver in ("auto", "epoll"):
            run_on(binary, io_driver, counts)
        print("\n--- llm-router demo", flush=True)
        counts.add_python(run_python("test_readme"))
    except AssertionError as problem:
        print(problem)
        counts.failed += 1
    skipped = f", {counts.skipped} skipped" if counts.skipped else ""
    print(f"SDK summary: {counts.passed} passed, {counts.failed} failed{skipped}")
    sys.exit(int(counts.failed > 0))


if __name__ == "__main__":
    main()
