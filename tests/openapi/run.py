"""Has schemathesis ask the control API, as its OpenAPI document describes it, and checks the answers.

    python3 tests/openapi/run.py path/to/llm-router

The binary runs with a key of scope admin. Every answer must have a status, a media type, fields and a
body that the document describes, and none may be a server error. A request that the document calls
invalid, comes without a credential or by another method must be refused. The last line has the counts; the exit
code is 0 only if every operation passed. tools/test calls this in the environment that tools/setup
has made.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Not among them: missing_required_header, because the document knows no required header but those that
# carry a credential, which ignored_auth takes away; positive_data_acceptance, because whether a valid
# request is accepted hangs on more than its form: an expiry must be in the future, an address allowed.
CHECKS = ",".join(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
        "negative_data_rejection",
        "unsupported_method",
        "allow_header_conformance",
        "ignored_auth",
    ]
)
# It makes up ids, but also uses those it has seen: this one would revoke the key it asks with.
REVOKING = "delete-keys-id"
# Takes no key but the token of one node.
BEATING = "post-nodes-id-heartbeat"
NODE = {"name": "beating", "base_url": "http://127.0.0.1:9", "models": ["m"]}
CONFIG = """
[server]
host = "127.0.0.1"
port = 0
workers = 2
pin_workers = false
data_dir = "."
drain_announce_secs = 0
[[nodes]]
name = "absent"
base_url = "http://127.0.0.1:9"
models = ["m"]
"""


class Router:
    """The binary in a folder of its own."""

    def __init__(self, binary):
        self.binary = str(Path(binary).resolve())
        self.folder = Path(tempfile.mkdtemp(prefix="llm-router-openapi-"))
        (self.folder / "config.toml").write_text(CONFIG)
        self.key = self.make_key()
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve"], cwd=self.folder, stderr=log, stdin=subprocess.DEVNULL
            )
        self.url = f"http://{self.wait_for_address()}"

    def make_key(self):
        made = subprocess.run(
            [self.binary, "keys", "create", "--name", "checker", "--scopes", "admin"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        return made.stdout.strip()

    def wait_for_address(self):
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(r"listening on (\S+)", self.log.read_text(errors="replace"))
            if found:
                return found[1]
            time.sleep(0.02)
        sys.exit(f"the router does not start:\n{self.log.read_text(errors='replace')}")

    def ask(self, path, body=None):
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, headers=headers, data=data)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        log = self.log.read_text(errors="replace")
        shutil.rmtree(self.folder, ignore_errors=True)
        return code, log


def ask(router, report, seconds, *selection, node=None):
    """One run; returns the operations that were tested and how many of them failed."""
    report.unlink(missing_ok=True)
    node = node or {"id": "", "node_token": ""}
    tool = Path(sys.executable).parent / "schemathesis"
    command = [
        *(str(tool), "--config-file", str(HERE / "schemathesis.toml"), "run"),
        router.url + "/api/openapi.json",
        *("--header", f"X-API-Key: {router.key}", "--checks", CHECKS),
        *(("--header", f"X-Node-Token: {node['node_token']}") if node["node_token"] else ()),
        # One thread: some versions of Python fail when two parse source text at the same time, as the tool does.
        *("--max-time", str(seconds), "--workers", "1", "--request-timeout", "20"),
        *("--continue-on-failure", "--warnings", "off", "--no-color"),
        *("--report", "junit", "--report-junit-path", str(report)),
        *selection,
    ]
    finished = subprocess.run(
        command,
        cwd=router.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 60,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "NODE_ID": node["id"]},
    )
    print(finished.stdout, flush=True)
    if not report.exists():
        return [], 1
    suites = ElementTree.parse(report).getroot()
    tested = [case.get("name") for case in suites.iter("testcase")]
    failed = int(suites.get("failures", 0)) + int(suites.get("errors", 0))
    return tested, failed or int(finished.returncode != 0)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    router = Router(sys.argv[1])
    passed = failed = 0

    def check(title, is_right):
        nonlocal passed, failed
        print(f"{title} ... {'ok' if is_right else 'FAIL'}", flush=True)
        passed += int(is_right)
        failed += int(not is_right)

    try:
        report = router.folder / "report.xml"
        # The live events never end, and tests/control_api watches them; the document itself is what it
        # reads first.
        tested, bad = ask(
            *(router, report, 60, "--exclude-path", "/api/events"),
            *("--exclude-operation-id", REVOKING, "--exclude-operation-id", BEATING),
        )
        passed += len(tested) - bad
        failed += bad
        _, document = router.ask("/api/openapi.json")
        described = sum(len(operations) for operations in document["paths"].values())
        check(f"all {described} operations but four were asked", len(tested) == described - 4)
        status, keys = router.ask("/api/keys")
        check("the key still opens the API", status == 200)
        check("keys were made", status == 200 and len(keys["keys"]) > 1)
        # Whether one is left is chance: it also removes nodes whose ids it has seen.
        log = router.log.read_text(errors="replace")
        check("nodes were registered", " has registered" in log)
        tested, bad = ask(router, report, 10, "--include-operation-id", REVOKING)
        passed += len(tested) - bad
        failed += bad
        _, node = router.ask("/api/nodes", NODE)
        tested, bad = ask(router, report, 10, "--include-operation-id", BEATING, node=node)
        passed += len(tested) - bad
        failed += bad
        _, after = router.ask(f"/api/nodes/{node['id']}")
        check("a heartbeat was taken", after["last_heartbeat_at"] is not None)
    finally:
        code, log = router.close()
    check("the router has not panicked, and drains", code == 0 and "panicked" not in log)
    if code != 0 or "panicked" in log:
        print(log)
    print(f"OpenAPI summary: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
