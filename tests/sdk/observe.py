"""What the tests read from the router and its mock nodes."""

import os

import httpx

from stack import until


def url():
    return os.environ["LLM_ROUTER_TEST_URL"]


def metrics():
    """The parser of the load quickstart, as users have it."""
    response = httpx.get(f"{url()}/metrics")
    metrics = {}

    for line in response.text.split("\n"):
        if line and not line.startswith("#"):
            parts = line.split(" ")
            if len(parts) >= 2:
                metrics[parts[0]] = float(parts[1])

    return metrics


def node_stats():
    """The counters of all mock nodes, added up."""
    total = {}
    for node in os.environ["LLM_ROUTER_TEST_NODES"].split(","):
        for name, value in httpx.get(f"{node}/stats").json().items():
            if isinstance(value, int):
                total[name] = total.get(name, 0) + value
    return total


def busy():
    """The gauges that count running work and say that there is some."""
    prefixes = ("llm_router_requests_in_flight", "llm_router_streams_active")
    prefixes += ("llm_router_node_in_flight", "llm_router_buffered_body_bytes")
    return {
        name: value
        for name, value in metrics().items()
        if name.startswith(prefixes) and value > 0
    }


def until_idle():
    """Abandoned work stops within one second; a busy machine is given three."""
    seen = {}

    def idle():
        seen.clear()
        seen.update(busy())
        seen.update({f"node {k}": v for k, v in node_stats().items() if k == "in_flight" and v})
        return not seen

    try:
        until("all gauges at zero", idle, deadline_secs=3.0)
    except AssertionError as late:
        raise AssertionError(f"{late}: {seen}") from None
