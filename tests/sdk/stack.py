"""Starts the real binary: mock nodes and a router before them, on ports the system picks.

Owns the processes and their configuration file; knows nothing of the tests. Every wait is for a
condition, with a deadline.
"""

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx

KEY = "sk-sdk-test"
MODEL = "llama-3.2-1b"
EMBEDDING_MODEL = "all-minilm-l6-v2"
SLOW_MODEL = "slow-model"
ALIAS = "gpt-4o-mini"
TOKENS = 16
BUSY_MODEL = "busy-model"
STUCK_MODEL = "stuck-model"
# Streams that begin while they wait, at most two seconds: a turn comes in time at one node, not at the
# other.
WAITING_STREAMS = {
    "nodes": {BUSY_MODEL: 1500, STUCK_MODEL: 4000},
    "queue.stream_position": "true",
    "load_manager.default_timeout_secs": 2,
}

DEADLINE_SECS = 20.0
ADDRESS = re.compile(r"\b127\.0\.0\.1:([1-9][0-9]*)\b")


def until(what, condition, deadline_secs=DEADLINE_SECS):
    """Returns the first truthy value of `condition`; fails when there is none in time."""
    end = time.monotonic() + deadline_secs
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"did not happen within {deadline_secs} s: {what}")
        time.sleep(0.01)


class Process:
    """One running command; its output is kept for the report of a failure."""

    def __init__(self, *command, environment=None):
        self.command = [str(part) for part in command]
        self.lines = []
        # A clean environment: settings of the caller's shell must not reach the router.
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"], **(environment or {})},
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with self.child.stdout as lines:
            for line in lines:
                self.lines.append(line)

    def output(self):
        return "".join(self.lines)

    def address(self):
        """Waits until the process names the address it listens on."""

        def named():
            if self.child.poll() is not None:
                self.reader.join(1)
                raise AssertionError(
                    f"{self.command} ended with {self.child.returncode}:\n{self.output()}"
                )
            return ADDRESS.search(self.output())

        return until(f"an address from {self.command}", named).group(0)

    def stop(self):
        """Asks the process to end, as an operator would; returns its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(DEADLINE_SECS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"{self.command} did not end:\n{self.output()}") from None


class Stack:
    """Two equal nodes, one slow node, and a router that knows all three."""

    def __init__(self, binary, io_driver):
        self.folder = tempfile.TemporaryDirectory(prefix="llm-router-sdk-")
        self.processes = []
        fast = ["--slots", "64", "--first-token-ms", "0", "--token-interval-ms", "1"]
        slow = ["--slots", "64", "--first-token-ms", "100", "--token-interval-ms", "100"]
        both = f"{MODEL},{EMBEDDING_MODEL}"
        try:
            self.nodes = {
                "node-a": self._node(binary, "node-a", both, fast),
                "node-b": self._node(binary, "node-b", both, fast),
                "node-slow": self._node(binary, "node-slow", SLOW_MODEL, slow),
            }
            config = Path(self.folder.name) / "config.toml"
            config.write_text(self._configuration(io_driver))
            self.router = self._start(binary, "serve", "--config", config)
            self.url = f"http://{self.router.address()}"
            until("readiness", lambda: httpx.get(f"{self.url}/ready").status_code == 200)
        except BaseException:
            self.close()
            raise

    def _start(self, *command):
        process = Process(*command)
        self.processes.append(process)
        return process

    def _node(self, binary, name, models, timing):
        command = ["mock-node", "--name", name, "--models", models, "--tokens", TOKENS, *timing]
        return f"http://{self._start(binary, *command).address()}"

    def _configuration(self, io_driver):
        models = {"node-slow": [SLOW_MODEL]}
        nodes = "".join(
            f'[[nodes]]\nname = "{name}"\nbase_url = "{url}"\n'
            f"models = {models.get(name, [MODEL, EMBEDDING_MODEL])}\nmax_concurrency = 64\n"
            for name, url in self.nodes.items()
        )
        return (
            '[server]\nhost = "127.0.0.1"\nport = 0\nworkers = 2\ndrain_announce_secs = 0\n'
            f'io_driver = "{io_driver}"\ndata_dir = "{self.folder.name}/data"\n'
            f'[auth]\napi_keys = ["{KEY}"]\n{nodes}'
            f'[[aliases]]\nmodel = "{ALIAS}"\nto = "{MODEL}"\n'
        )

    def close(self):
        """Stops everything, the router first; returns the router's exit code."""
        codes = [process.stop() for process in reversed(self.processes)]
        self.folder.cleanup()
        return codes[0] if codes else None


class QueueStack(Stack):
    """Nodes that work on one request at a time, and a router before them.

    `nodes` gives for each model the milliseconds its node takes, `settings` further settings of the
    router by their path in the file.
    """

    def __init__(self, binary, io_driver, nodes, **settings):
        self.folder = tempfile.TemporaryDirectory(prefix="llm-router-sdk-")
        self.processes = []
        try:
            self.nodes = {
                model: self._node(
                    binary,
                    model,
                    model,
                    ["--slots", "1", "--first-token-ms", milliseconds, "--token-interval-ms", "1"],
                )
                for model, milliseconds in nodes.items()
            }
            config = Path(self.folder.name) / "config.toml"
            config.write_text(
                '[server]\nhost = "127.0.0.1"\nport = 0\nworkers = 2\ndrain_announce_secs = 0\n'
                f'io_driver = "{io_driver}"\ndata_dir = "{self.folder.name}/data"\n'
                f'[auth]\napi_keys = ["{KEY}"]\n'
                + "".join(
                    f'[[nodes]]\nname = "{model}"\nbase_url = "{url}"\nmodels = ["{model}"]\n'
                    for model, url in self.nodes.items()
                )
            )
            sets = [f"--set={key}={value}" for key, value in settings.items()]
            self.router = self._start(binary, "serve", "--config", config, *sets)
            self.url = f"http://{self.router.address()}"
            until("all nodes online", self._is_online)
        except BaseException:
            self.close()
            raise

    def _is_online(self):
        page = httpx.get(f"{self.url}/metrics").text
        return all(
            f'llm_router_node_state{{node="{model}",state="online"}} 1\n' in page
            for model in self.nodes
        )

    def waiting(self):
        """How many requests wait."""
        page = httpx.get(f"{self.url}/metrics").text
        return int(re.search(r"^llm_router_queue_size (\d+)$", page, re.M).group(1))

    def in_flight(self):
        """How many requests are under way, waiting ones included."""
        page = httpx.get(f"{self.url}/metrics").text
        return int(re.search(r"^llm_router_requests_in_flight (\d+)$", page, re.M).group(1))
