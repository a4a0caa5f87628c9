"""Looks like vLLM from outside, loads nothing, and misbehaves on demand.

Takes vLLM's arguments and ignores those it does not know. How it behaves is told by environment
variables: ``FAKE_SAY`` (lines for the log) and ``FAKE_EXIT`` (then exit with this status),
``FAKE_HANG`` (log one line and never get ready), ``FAKE_IGNORE_TERM``, ``FAKE_STRAY`` (fork a
child that leaves the group), ``FAKE_EXIT_IF`` (exit with status 7 if this file exists),
``FAKE_SICK_IF`` (``/health`` has status 503 if this file exists).
``POST /v1/die`` ends it with status 9, after ``FAKE_LAST_WORDS``; ``/v1/sicken`` and ``/v1/heal``
decide about ``/health``; ``/v1/break-off`` ends it in the middle of a reply; ``/v1/leave``
refuses connections before it ends; ``/v1/lose-engine`` logs ``FAKE_LAST_WORDS``, answers 500 and is
ill; ``/v1/fail`` only answers 500. ``/v1/freeze`` stops its engine and leaves ``/health`` well: it
answers with a stream that falls silent, and completions wait for ``/v1/thaw``.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STRAY = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"


def log(text: str, who: str = "APIServer") -> None:
    sys.stderr.write(f"({who} pid={os.getpid()}) INFO 11-23 02:56:57 [core.py:133] {text}\n")
    sys.stderr.flush()


def is_there(variable: str) -> bool:
    return variable in os.environ and Path(os.environ[variable]).exists()


class Handler(BaseHTTPRequestHandler):
    models: tuple[str, ...] = ()
    health = 200
    moving = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/v1") and not self.authorized():
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": name} for name in self.models]})
        elif self.path == "/version":
            self.reply(200, {"version": "0.0.0"})
        elif self.path == "/metrics":
            self.send(200, f"vllm:generation_tokens_total 1.0\nup {time.monotonic()}\n".encode())
        elif self.path == "/health":
            self.reply(503 if is_there("FAKE_SICK_IF") else Handler.health, {})
        else:
            self.reply(404, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        if not self.authorized():
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/die":
            sys.stderr.write(os.environ.get("FAKE_LAST_WORDS", "Killed") + "\n")
            sys.stderr.flush()
            os._exit(9)
        elif self.path == "/v1/break-off":
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"begun")
            time.sleep(0.2)
            os._exit(9)
        elif self.path == "/v1/leave":
            assert isinstance(self.server, ThreadingHTTPServer)
            self.server.socket.shutdown(socket.SHUT_RDWR)  # a close waits for the thread's poll
            self.reply(200, {"pid": os.getpid()})
            threading.Timer(0.2, os._exit, [9]).start()
        elif self.path == "/v1/lose-engine":
            log(os.environ["FAKE_LAST_WORDS"], "Worker")
            Handler.health = 503
            self.reply(500, {"error": {"message": "EngineCore encountered an issue."}})
        elif self.path == "/v1/fail":
            self.reply(500, {"error": {"message": "a fault of one request"}})
        elif self.path == "/v1/freeze":
            Handler.moving.clear()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", "100000")
            self.end_headers()
            self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":"one "}}]}\n\n')
            Handler.moving.wait()
        elif self.path == "/v1/thaw":
            Handler.moving.set()
            self.reply(200, {})
        elif self.path == "/v1/completions" and not Handler.moving.wait(120):
            pass
        elif self.path in ("/v1/sicken", "/v1/heal"):
            Handler.health = 503 if self.path == "/v1/sicken" else 200
            self.reply(200, {"pid": os.getpid()})
        else:
            self.reply(200, {"path": self.path, "argv": sys.argv[1:], "pid": os.getpid()})

    def authorized(self) -> bool:
        key = os.environ.get("VLLM_API_KEY")
        return not key or self.headers["authorization"] == f"Bearer {key}"

    def reply(self, status: int, document: object) -> None:
        self.send(status, json.dumps(document).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("positional", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--served-model-name", nargs="*")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    args, _ = parser.parse_known_args()
    if "FAKE_IGNORE_TERM" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "FAKE_STRAY" in os.environ:
        subprocess.Popen([sys.executable, "-I", "-S", "-c", STRAY], start_new_session=True)
    log("version 0.0.0")
    if said := os.environ.get("FAKE_SAY"):
        sys.stderr.write(f"{said}\n")
        sys.stderr.flush()
    if status := os.environ.get("FAKE_EXIT"):
        sys.exit(int(status))
    if is_there("FAKE_EXIT_IF"):
        sys.exit(7)
    if "FAKE_HANG" in os.environ:
        time.sleep(120)
    log("Initializing a V1 LLM engine (v0.0.0) with config: ...", "EngineCore")
    log("Starting to load model ...", "Worker")
    log("GPU KV cache size: 1,024 tokens", "EngineCore")
    Handler.moving.set()
    Handler.models = tuple(args.served_model_name or [args.model or args.positional[-1]])
    server = ThreadingHTTPServer((args.host, args.port), Handler)
    log(f"Starting vLLM server on http://{args.host}:{args.port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
