"""The scripts, with a wrk that says what the test wants it to say."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import reports

FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$FAKE_ARGUMENTS"
cat "$FAKE_REPORT"
exit "${FAKE_STATUS:-0}"
"""


class Scripts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name in ("wrk", "hey"):
            fake = self.folder / name
            fake.write_text(FAKE)
            fake.chmod(0o755)

    def run_script(self, name, *arguments, report=reports.WRK_GOOD, **environment):
        said = self.folder / "report"
        said.write_text(report)
        variables = {
            name: value
            for name, value in os.environ.items()
            if name == "BENCH_ROUTER" or not name.startswith(("WRK_", "BENCH_"))
        }
        return subprocess.run(
            [str(reports.TOOLS / name), *arguments],
            env={
                **variables,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "FAKE_ARGUMENTS": str(self.folder / "arguments"),
                "FAKE_REPORT": str(said),
                "BENCH_RESULTS": str(self.folder / "results"),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def arguments(self):
        return (self.folder / "arguments").read_text().splitlines()

    def test_a_good_run_passes_and_shows_the_whole_report(self):
        done = self.run_script("run_wrk.sh")
        self.assertEqual((done.returncode, done.stdout), (0, reports.WRK_GOOD))
        script = str(reports.TOOLS / "chat_openai.lua")
        self.assertEqual(
            self.arguments(),
            ["-t2", "-c50", "-d30s", "--latency", "--timeout", "60s", "-s", script]
            + ["http://localhost:8080/v1/chat/completions"],
        )

    def test_target_endpoint_script_and_arguments_are_passed_on(self):
        script = self.folder / "own.lua"
        script.write_text("")
        self.run_script(
            "run_wrk.sh",
            *("-t1", "-c2", "-d1s", "--latency", "--timeout", "5s"),
            WRK_TARGET="http://10.0.0.1:81/",
            WRK_ENDPOINT="v1/embeddings",
            WRK_SCRIPT=str(script),
        )
        self.assertEqual(
            self.arguments(),
            ["-t1", "-c2", "-d1s", "--latency", "--timeout", "5s", "-s", str(script)]
            + ["http://10.0.0.1:81/v1/embeddings"],
        )

    def test_an_answer_that_is_not_2xx_fails_the_run(self):
        done = self.run_script("run_wrk.sh", report=reports.WRK_REFUSED)
        self.assertEqual(done.returncode, 1)
        self.assertIn("9 of 95115 answers were not 2xx", done.stderr)

    def test_a_failed_connection_fails_the_run(self):
        self.assertEqual(self.run_script("run_wrk.sh", report=reports.WRK_BROKEN).returncode, 1)

    def test_a_wrk_that_fails_fails_the_run(self):
        self.assertEqual(self.run_script("run_wrk.sh", FAKE_STATUS="1").returncode, 1)

    def test_hey_gets_body_and_key_and_its_refusals_fail_the_run(self):
        done = self.run_script(
            "run_hey.sh", report=reports.HEY, WRK_MODEL='a"b', WRK_API_KEY="sk-1"
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("10 of 200 answers were not 2xx", done.stderr)
        arguments = self.arguments()
        self.assertIn("Authorization: Bearer sk-1", arguments)
        self.assertIn('{"model": "a\\"b", "messages": [{"role": "user", "content": "ping"}]}', arguments)

    def test_scaling_makes_one_result_of_all_runs(self):
        done = self.run_script("run_scenario.sh", "scaling", BENCH_SECONDS="1")
        self.assertEqual(done.returncode, 0, done.stderr)
        [result] = (self.folder / "results").glob("*-scaling.csv")
        labels = [line.split(",")[0] for line in result.read_text().splitlines()]
        self.assertEqual(
            labels, ["label", "scaling-c5", "scaling-c20", "scaling-c50", "scaling-c100"]
        )

    def test_a_scenario_with_refusals_says_so_in_its_result_and_fails(self):
        done = self.run_script("run_scenario.sh", "local", report=reports.WRK_REFUSED)
        self.assertEqual(done.returncode, 1)
        [result] = (self.folder / "results").glob("*-local.md")
        self.assertIn("- 失敗: 9 (4xx 6 / 5xx 1", result.read_text())

    def test_without_a_target_the_cloud_scenario_needs_a_router(self):
        done = self.run_script("run_scenario.sh", "cloud", BENCH_ROUTER="/nonexistent")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no router at /nonexistent", done.stderr)
        self.assertFalse((self.folder / "arguments").exists())

    def test_without_a_target_the_cloud_scenario_runs_against_the_stand_in(self):
        done = self.run_script("run_scenario.sh", "cloud", BENCH_SECONDS="1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(self.arguments()[-1], "^http://127.0.0.1:[0-9]+/v1/chat/completions$")
        [result] = (self.folder / "results").glob("*-cloud.md")
        self.assertIn("a mock node behind TLS", result.read_text())

    def test_the_cloud_scenario_runs_where_a_target_is_given(self):
        done = self.run_script("run_scenario.sh", "cloud", WRK_TARGET="http://127.0.0.1:1")
        self.assertEqual(done.returncode, 0, done.stderr)
        [result] = (self.folder / "results").glob("*-cloud.md")
        self.assertIn("- 対象: openai/google/anthropic", result.read_text())

    def test_the_long_run_has_a_bound(self):
        for minutes in ("0", "241", "-1", "ten", "1e9"):
            done = self.run_script("run_stability.sh", minutes)
            self.assertEqual(done.returncode, 1, minutes)
            self.assertIn("MINUTES", done.stderr)


if __name__ == "__main__":
    unittest.main()
