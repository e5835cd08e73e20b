"""The stand-in for cloud providers: its parts are real ones."""

import json
import os
import subprocess
import sys
import unittest

import reports

STAND_IN = reports.TOOLS / "cloud_stand_in.py"
ASK = """
import json, os, urllib.request
body = json.dumps({"model": "openai:gpt-4o", "messages": [{"role": "user", "content": "Hi"}]})
headers = {"Authorization": "Bearer " + os.environ["WRK_API_KEY"], "Content-Type": "application/json"}
request = urllib.request.Request(
    os.environ["WRK_TARGET"] + "/v1/chat/completions", body.encode(), headers
)
with urllib.request.urlopen(request, timeout=10) as answer:
    print(json.dumps([answer.status, json.load(answer)["model"]]))
"""


def stand_in(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(STAND_IN), *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


class StandIn(unittest.TestCase):
    def test_a_chat_goes_through_all_parts(self):
        done = stand_in("--", sys.executable, "-c", ASK)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout), [200, "openai:gpt-4o"])

    def test_the_exit_code_is_that_of_the_command(self):
        for command, expected in (("exit 7", 7), ("kill -TERM $$", 143)):
            done = stand_in("--", "sh", "-c", command)
            self.assertEqual(done.returncode, expected, done.stderr)

    def test_without_a_command_it_says_how_it_is_used(self):
        for arguments in ((), ("--",), ("true", "x")):
            done = stand_in(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn("cloud_stand_in.py -- COMMAND", done.stderr)


if __name__ == "__main__":
    unittest.main()
