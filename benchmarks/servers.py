"""What stands between load and upstream: how each server is started."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from benchmarks import machine
from benchmarks.litellm_env import litellm, write_config
from benchmarks.upstream import HOSTS, has_token_ids

ALIAS: Final = "public-"
"""Stands before the names of models, where a server has names of its own for them."""

_NAMES: Final = 10


class Place(NamedTuple):
    """Where a server runs."""

    port: int
    upstream_port: int
    folder: Path
    models: Sequence[str]
    """The upstream's names of the models that will be asked for."""


class Server(NamedTuple):
    """Something between load and upstream."""

    command: Callable[[Place], Sequence[str] | None]
    """Its command line; ``None`` where it is not installed."""
    ready: str
    """A path that answers with 200 when the server is usable."""
    start_s: float = 20.0
    optional: bool = False
    """Whether a table without it is of use."""


_NGINX_CONF: Final = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 100000000;
    client_body_buffer_size 64k;
    client_max_body_size 100m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream model {{
        server 127.0.0.1:{upstream_port};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def _nginx(place: Place) -> Sequence[str] | None:
    program = machine.find_nginx()
    if program is None:
        return None
    conf = place.folder / "nginx.conf"
    conf.write_text(_NGINX_CONF.format(**place._asdict()))
    return [program, "-e", "stderr", "-p", str(place.folder), "-c", str(conf)]


def _dragoman(speaks: str) -> Callable[[Place], Sequence[str]]:
    def command(place: Place) -> Sequence[str]:
        return [
            *(machine.python(), "-m", "proxy", "serve"),
            *("--upstream", f"http://127.0.0.1:{place.upstream_port}/v1"),
            *("--upstream-speaks", speaks, "--port", str(place.port)),
        ]

    return command


def _dragoman_named(place: Place) -> Sequence[str]:
    """The upstream's names, some of them with token ids."""
    return _configured(place, place.models, f'url = "{_url(place, HOSTS[0])}"')


def _dragoman_full(place: Place) -> Sequence[str]:
    """Ten names over three replicas, with captures."""
    names = [*place.models, *(f"idle-{i}" for i in range(_NAMES - len(place.models)))]
    urls = msgspec.json.encode([_url(place, host) for host in HOSTS]).decode()
    captures = ["[capture]", f'dir = "{place.folder / "captures"}"']
    return _configured(place, names, f"urls = {urls}", ALIAS, captures)


def _configured(
    place: Place,
    names: Sequence[str],
    where: str,
    alias: str = "",
    more: Sequence[str] = (),
) -> Sequence[str]:
    lines = ["[upstreams.default]", where, 'speaks = "chat"']
    for name in names:
        lines += ["[[models]]", f'name = "{alias}{name}"', f'upstream_model = "{name}"']
        if has_token_ids(name):
            lines.append("token_ids = true")
    config = place.folder / "dragoman.toml"
    config.write_text("\n".join([*lines, *more]))
    serve = [machine.python(), "-m", "proxy", "serve", "--config", str(config)]
    return [*serve, "--port", str(place.port)]


def _url(place: Place, host: str) -> str:
    return f"http://{host}:{place.upstream_port}/v1"


def _litellm(place: Place) -> Sequence[str] | None:
    program = litellm()
    if program is None:
        return None
    config = write_config(place.folder, place.upstream_port)
    return [str(program), "--config", str(config), "--port", str(place.port)]


SERVERS: Final = {
    "nginx": Server(_nginx, "/health", optional=True),
    "litellm": Server(_litellm, "/health/liveliness", 120.0, optional=True),
    "dragoman-chat": Server(_dragoman("chat"), "/ready"),
    "dragoman-named": Server(_dragoman_named, "/ready"),
    "dragoman-full": Server(_dragoman_full, "/ready"),
    "dragoman-responses": Server(_dragoman("responses"), "/ready"),
}


class Running(NamedTuple):
    """A server that is usable."""

    pid: int
    port: int


@contextlib.contextmanager
def running(
    names: Sequence[str], upstream_port: int, models: Sequence[str] = ()
) -> Iterator[dict[str, Running]]:
    """Start servers on the proxy's core; optional ones that cannot be are named and left out.

    Raises:
        machine.StartError: A server that is not optional did not become usable.
    """
    # What the caller of the benchmark has configured for Dragoman must not take part.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DRAGOMAN_", "OPENAI_"))
    }
    found: dict[str, Running] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dragoman-bench-")))
        for name in names:
            server = SERVERS[name]
            place = Place(machine.free_port(), upstream_port, folder / name, models)
            place.folder.mkdir()
            command = server.command(place)
            if command is None:
                print(f"left out: {name} is not installed", file=sys.stderr)
                continue
            log = place.folder / "log"
            with log.open("wb") as file:
                process = machine.start(
                    command, core=machine.PROXY_CORE, log=file, environment=environment
                )
            stack.callback(machine.stop, process)
            url = f"http://127.0.0.1:{place.port}{server.ready}"
            try:
                machine.wait_ready(process, url, log, server.start_s)
            except machine.StartError as exc:
                if not server.optional:
                    raise
                print(f"left out: {name} {exc}", file=sys.stderr)
                continue
            found[name] = Running(process.pid, place.port)
        yield found
