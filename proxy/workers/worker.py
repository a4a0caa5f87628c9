"""One worker process; ``proxy.workers.owner`` starts it with its number, its socket and a file."""

import socket
import sys

import msgspec
import structlog

from proxy.log import configure
from proxy.serve import run_until_complete, run_worker
from proxy.settings import Settings
from proxy.workers.channel import receive_first
from proxy.workers.link import Link
from proxy.workers.tally import Tallies


def main() -> None:
    """Serve on an inherited socket; standard input is a channel, whose first word are settings."""
    number, listener, file = map(int, sys.argv[1:])
    channel = socket.socket(fileno=sys.stdin.fileno())
    settings = msgspec.msgpack.decode(receive_first(channel), type=Settings)
    configure(settings.log)
    structlog.contextvars.bind_contextvars(worker=number)
    link = Link(Tallies(file, 1 + settings.server.workers, 1 + number))
    run_until_complete(run_worker(settings, socket.socket(fileno=listener), link, channel))


if __name__ == "__main__":
    main()
