"""One worker process; ``proxy.workers`` starts it with its socket and number as arguments."""

import socket
import sys

import msgspec
import structlog

from proxy.log import configure
from proxy.serve import run_server, run_until_complete
from proxy.settings import Settings


def main() -> None:
    """Serve on an inherited socket with the settings on standard input."""
    fd, number = map(int, sys.argv[1:])
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    configure(settings.log)
    structlog.contextvars.bind_contextvars(worker=number)
    listener = socket.socket(fileno=fd)
    run_until_complete(run_server(settings, listener, owner=sys.stdin.fileno()))


if __name__ == "__main__":
    main()
