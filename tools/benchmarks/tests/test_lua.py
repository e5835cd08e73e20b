"""chat_openai.lua in a real wrk, where there is one."""

import http.server
import json
import os
import shutil
import subprocess
import threading
import unittest

import reports
import wrk_parse

STATUSES = (200, 302, 404, 503)


class Node(http.server.BaseHTTPRequestHandler):
    """Answers with each status in turn and keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    seen = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.headers["Authorization"], body))
        self.send_response(STATUSES[len(self.seen) % len(STATUSES)])
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"no\n")

    def log_message(self, *_):
        pass


@unittest.skipIf(shutil.which("wrk") is None, "wrk is not installed")
class Lua(unittest.TestCase):
    def test_wrk_sends_the_chat_and_the_hook_tells_what_wrk_leaves_out(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Node)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            ["wrk", "-t1", "-c1", "-d1s", "--latency", "-s", str(reports.TOOLS / "chat_openai.lua")]
            + [f"http://127.0.0.1:{server.server_port}/v1/chat/completions"],
            env={**os.environ, "WRK_MODEL": 'a"\\\n', "WRK_API_KEY": "sk-1", "WRK_BODY_JSON": ""},
            capture_output=True,
            text=True,
            timeout=30,
        )
        row = wrk_parse.parse(done.stdout, "x")
        failed = wrk_parse.failures(done.stdout)
        self.assertGreater(row["p95_ms"], 0)
        self.assertEqual(failed["non2xx"], sum(failed[name] for name in ("4xx", "5xx", "other")))
        # Three of four statuses are not 2xx, in turn; the last answers may be cut off by the end.
        for name in ("4xx", "5xx", "other"):
            self.assertAlmostEqual(failed[name], row["requests"] / 4, delta=2)
        self.assertIn("first non-2xx answer: 302 no", done.stdout)
        key, body = Node.seen[0]
        self.assertEqual(key, "Bearer sk-1")
        self.assertEqual(json.loads(body)["model"], 'a"\\\n')


if __name__ == "__main__":
    unittest.main()
