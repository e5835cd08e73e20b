#!/usr/bin/env python3
"""Runs a command against a router whose only node is reached through TLS, as a cloud provider is.

    tools/benchmarks/cloud_stand_in.py -- COMMAND [ARGUMENT ...]

On this machine, each part a process of its own on a free loopback port:

    COMMAND -> router -> nginx: TLS to the provider -> nginx: TLS of the provider -> mock node

The mock node has the models openai:gpt-4o, google:gemini-1.5-pro and anthropic:claude-3-opus. The
certificate is made for the run and the way to the provider trusts no other. COMMAND gets WRK_TARGET
and WRK_API_KEY; its exit code is this one's. BENCH_ROUTER is the router's binary, by default the
release build. Needs nginx and openssl.

What it stands in for is the cost of TLS on the way to a provider. What it cannot show is the
provider: its distance, its limits, its answers.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

MODELS = ("openai:gpt-4o", "google:gemini-1.5-pro", "anthropic:claude-3-opus")
KEY = "sk-cloud-stand-in-0123456789"
START_SECONDS = 20
ROOT = Path(__file__).resolve().parents[2]


class Missing(Exception):
    """Something that must be installed or built first."""


def main(arguments):
    if len(arguments) < 2 or arguments[0] != "--":
        sys.exit(__doc__)
    try:
        tools = find_tools()
    except Missing as missing:
        sys.exit(f"cloud_stand_in.py: {missing}")
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = start(stack, work, *tools)
        environment = {**os.environ, "WRK_TARGET": target, "WRK_API_KEY": KEY}
        status = subprocess.run(arguments[1:], env=environment, check=False).returncode
    # Ended by a signal: as a shell would say it.
    sys.exit(status if status >= 0 else 128 - status)


def find_tools():
    """The router, nginx and openssl."""
    router = Path(os.environ.get("BENCH_ROUTER", ROOT / "target/release/llm-router")).absolute()
    if not os.access(router, os.X_OK):
        raise Missing(f"no router at {router}: cargo build --release, or set BENCH_ROUTER")
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    found = [shutil.which(name, path=places) for name in ("nginx", "openssl")]
    if None in found:
        raise Missing("nginx and openssl are needed; on Debian: apt-get install nginx openssl")
    return router, *found


def start(stack, work, router, nginx, openssl):
    """Starts all parts; the address of the router."""
    mock, provider, way_out, front = free_ports(4)
    make_certificate(openssl, work)
    (work / "nginx.conf").write_text(nginx_config(mock, provider, way_out))
    (work / "config.toml").write_text(router_config(work, way_out, front))
    models = ",".join(MODELS)
    options = ("--slots", "1000", "--first-token-ms", "0", "--token-interval-ms", "0")
    keep_alive = ("--keep-alive-secs", "3600")
    run(stack, work, "mock", [router, "mock-node", "--port", str(mock), "--models", models, *options, *keep_alive])
    run(stack, work, "nginx", [nginx, "-p", work, "-c", work / "nginx.conf", "-e", work / "nginx-errors.log"])
    run(stack, work, "router", [router, "serve", "--config", work / "config.toml"])
    target = f"http://127.0.0.1:{front}"
    wait_until_served(target, work)
    return target


def run(stack, work, name, command):
    log = stack.enter_context(open(work / f"{name}.log", "wb"))
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    stack.callback(end, process)


def end(process):
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until_served(target, work):
    """Until the router says that it has the models, through all parts."""
    request = urllib.request.Request(f"{target}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(request, timeout=2) as answer:
                if MODELS[0].encode() in answer.read():
                    return
        time.sleep(0.05)
    said = "".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(work.glob("*.log")))
    sys.exit(f"cloud_stand_in.py: no answer within {START_SECONDS} s\n{said}")


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_certificate(openssl, work):
    """A key and a certificate of its own for `localhost`, which is its own authority."""
    made = subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", str(work / "key.pem"), "-out", str(work / "certificate.pem")],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        sys.exit(f"cloud_stand_in.py: openssl: {made.stderr}")


def nginx_config(mock, provider, way_out):
    temporary = "\n".join(
        f"    {kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    kept = "keepalive 512; keepalive_requests 1000000000; keepalive_timeout 3600;"
    passing = "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off;"
    return f"""daemon off;
worker_processes 1;
pid nginx.pid;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    keepalive_timeout 3600;
    keepalive_requests 1000000000;
    client_max_body_size 0;
{temporary}
    upstream mock {{ server 127.0.0.1:{mock}; {kept} }}
    upstream provider {{ server 127.0.0.1:{provider}; {kept} }}
    server {{
        listen 127.0.0.1:{provider} ssl;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        ssl_protocols TLSv1.3;
        location / {{ proxy_pass http://mock; {passing} }}
    }}
    server {{
        listen 127.0.0.1:{way_out};
        location / {{
            proxy_pass https://provider;
            {passing}
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
            proxy_ssl_trusted_certificate certificate.pem;
        }}
    }}
}}
"""


def router_config(work, way_out, front):
    models = ", ".join(f'"{model}"' for model in MODELS)
    return f"""[server]
host = "127.0.0.1"
port = {front}
workers = 1
data_dir = "{work}/data"
drain_announce_secs = 0
[auth]
api_keys = ["{KEY}"]
[[nodes]]
name = "provider"
base_url = "http://127.0.0.1:{way_out}"
models = [{models}]
max_concurrency = 1000
"""


if __name__ == "__main__":
    main(sys.argv[1:])
