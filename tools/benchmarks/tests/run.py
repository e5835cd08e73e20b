"""Runs the tests of the benchmark tools; the last line has the counts. tools/test calls this.

    python3 tools/benchmarks/tests/run.py

`python3 -m unittest discover tools/benchmarks/tests` runs the same tests.
"""

import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    suite = unittest.defaultTestLoader.discover(str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    skipped = len(result.skipped)
    passed = result.testsRun - failed - skipped
    text = f", {skipped} skipped" if skipped else ""
    print(f"Benchmark tools summary: {passed} passed, {failed} failed{text}")
    # Finding no test at all is no success.
    sys.exit(int(failed > 0 or passed == 0))


if __name__ == "__main__":
    main()
