"""Plain HTTP with httpx, as the quickstarts show it, and what Prometheus reads."""

import json
import subprocess
import unittest

import httpx

from observe import metrics, until_idle, url
from stack import KEY, MODEL


def chat(prompt: str, stream: bool = False):
    """The example of the API quickstart. Because of its `yield` it is a generator in both cases."""
    with httpx.Client(timeout=60.0) as client:
        response = client.post(
            f"{url()}/v1/chat/completions",
            headers={"Authorization": f"Bearer {KEY}"},
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": prompt}],
                "stream": stream,
            },
        )

        if stream:
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield line[6:]
        else:
            return response.json()


def post(**options):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    options = {"json": body, "timeout": 30.0, **options}
    return httpx.post(f"{url()}/v1/chat/completions", **options)


class Examples(unittest.TestCase):
    def test_the_streaming_example_reads_every_event(self):
        chunks = [json.loads(line) for line in chat("Tell me a joke", stream=True)]
        self.assertEqual(chunks[0]["object"], "chat.completion.chunk")
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "stop")

    def test_the_plain_example_returns_the_answer(self):
        with self.assertRaises(StopIteration) as ended:
            next(chat("Hello"))
        self.assertEqual(ended.exception.value["object"], "chat.completion")

    def test_the_key_may_come_as_x_api_key(self):
        self.assertEqual(post(headers={"X-API-Key": KEY}).status_code, 200)

    def test_a_missing_and_a_wrong_key_get_the_same_answer(self):
        missing = post()
        wrong = post(headers={"Authorization": "Bearer sk-wrong"})
        self.assertEqual(missing.status_code, 401)
        self.assertEqual(missing.content, wrong.content)
        self.assertEqual(
            missing.json(),
            {
                "error": {
                    "message": "Invalid API key",
                    "type": "authentication_error",
                    "code": "invalid_api_key",
                }
            },
        )

    def test_health_and_readiness_need_no_key(self):
        self.assertEqual(httpx.get(f"{url()}/health").status_code, 200)
        self.assertEqual(httpx.get(f"{url()}/ready").status_code, 200)


class Metrics(unittest.TestCase):
    def test_the_quickstarts_parser_reads_the_counters(self):
        before = metrics()
        self.assertEqual(post(headers={"X-API-Key": KEY}).status_code, 200)
        until_idle()
        after = metrics()
        for name in (
            "llm_router_queue_size",
            "llm_router_backpressure_rejections_total",
            'llm_router_request_duration_seconds{quantile="0.95"}',
            "llm_router_cache_hits_total",
            "llm_router_cache_misses_total",
        ):
            self.assertIn(name, after)
        rise = sum(
            after[name] - before.get(name, 0)
            for name in after
            if name.startswith("llm_router_requests_total{") and 'status="200"' in name
        )
        self.assertGreaterEqual(rise, 1)

    def test_promtool_has_nothing_to_complain_about(self):
        page = httpx.get(f"{url()}/metrics")
        self.assertTrue(page.headers["content-type"].startswith("text/plain; version=0.0.4"))
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=page.content, capture_output=True, timeout=30
        )
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, b"", b""))
