"""Reports as wrk, hey and the router write them, for the tests."""

import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOOLS))

WRK = """Running 3s test @ http://127.0.0.1:8080/v1/chat/completions
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.90ms  679.28us   7.77ms   72.43%
    Req/Sec    31.86k     4.20k   35.77k    73.33%
  Latency Distribution
     50%  840.00us
     75%    2.27ms
     90%    2.70ms
     99%    1.02s 
  95115 requests in 3.00s, 52.95MB read
Requests/sec:  31671.13
Transfer/sec:     17.63MB
"""
HOOK = """p95: 3.088 ms
non-2xx: 0 (4xx 0, 5xx 0, other 0)
"""
WRK_GOOD = WRK + HOOK
WRK_REFUSED = (
    WRK.replace("Requests/sec:", "  Non-2xx or 3xx responses: 7\nRequests/sec:")
    + """p95: 3.088 ms
non-2xx: 9 (4xx 6, 5xx 1, other 2)
first non-2xx answer: 401 {"error":{"message":"Invalid API key"}}
"""
)
WRK_BROKEN = WRK.replace(
    "Requests/sec:", "  Socket errors: connect 1, read 2, write 3, timeout 4\nRequests/sec:"
)

HEY = """
Summary:
  Total:\t2.0078 secs
  Slowest:\t0.0024 secs
  Requests/sec:\t99.6115

Latency distribution:
  10% in 0.0003 secs
  50% in 0.0006 secs
  75% in 0.0007 secs
  90% in 0.0012 secs
  95% in 0.0017 secs
  99% in 0.0024 secs

Status code distribution:
  [200]\t190 responses
  [429]\t10 responses

Error distribution:
  [3]\tPost "http://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused
  [2]\tPost "http://127.0.0.1:1/": EOF
"""

METRICS = """# HELP llm_router_requests_total Requests answered, by endpoint and status.
# TYPE llm_router_requests_total counter
llm_router_requests_total{endpoint="chat_completions",status="200"} 500
llm_router_requests_total{endpoint="chat_completions",status="401"} 3
llm_router_requests_total{endpoint="embeddings",status="503"} 2
llm_router_requests_total{endpoint="chat_completions",status="499"} 4
llm_router_cancelled_total{phase="connect"} 1
llm_router_cancelled_total{phase="first_byte"} 3
llm_router_queue_wait_seconds{quantile="0.5"} NaN
llm_router_node_failures_total{node="n\\"1",reason="connect"} 6
llm_router_requests_in_flight 12
llm_router_connections_active 51
process_resident_memory_bytes 31842304
process_open_fds 93
"""
