"""The first screen of the README does what it says: `demo` starts, and its curl line answers."""

import json
import os
import re
import subprocess
import unittest
from pathlib import Path

from stack import Process, until

README = Path(__file__).resolve().parents[2] / "README.md"


def tested_blocks():
    """The shell blocks that follow `<!-- tested against the demo -->`."""
    return re.findall(
        r"<!-- tested against the demo -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL
    )


def run(script, port):
    script = script.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


class Demo(unittest.TestCase):
    def setUp(self):
        self.demo = Process(os.environ["LLM_ROUTER_TEST_BINARY"], "demo", "--port", "0")
        self.addCleanup(self.demo.stop)
        self.port = self.demo.address().rsplit(":", 1)[1]
        until("the demo's welcome", lambda: "curl " in self.demo.output())

    def test_every_tested_block_of_the_readme_answers(self):
        blocks = tested_blocks()
        self.assertGreaterEqual(len(blocks), 2, "the README has lost its tested blocks")
        for block in blocks:
            with self.subTest(block):
                finished = run(block, self.port)
                self.assertEqual(finished.returncode, 0, finished.stderr)
                self.assertNotIn('"error"', finished.stdout)
                self.assertTrue(finished.stdout.strip())

    def test_the_first_command_gets_a_chat_completion(self):
        answer = json.loads(run(tested_blocks()[0], self.port).stdout)
        self.assertEqual(answer["object"], "chat.completion")

    def test_every_command_the_demo_prints_can_be_pasted(self):
        welcome = self.demo.output()
        self.assertIn("sk-demo", welcome)
        joined = welcome.replace("\\\n", " ")
        commands = [line.strip() for line in joined.splitlines() if line.strip().startswith("curl ")]
        self.assertGreaterEqual(len(commands), 3, welcome)
        for command in commands:
            with self.subTest(command):
                finished = run(command, self.port)
                self.assertEqual(finished.returncode, 0, finished.stderr)
                self.assertNotIn('"error"', finished.stdout)
                self.assertTrue(finished.stdout.strip())

    def test_the_demo_ends_cleanly(self):
        self.assertEqual(self.demo.stop(), 0, self.demo.output())
