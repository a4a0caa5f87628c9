"""The log: structured lines on standard error, without bodies and without credentials."""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from proxy.settings import Log

_SECRET = ("key", "authorization", "token", "password", "secret")


def configure(settings: Log) -> None:
    """Set up structlog for the whole process; standard loggers below WARNING fall silent."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    level = getattr(logging, settings.level.upper())
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Hide values whose names say that they are secrets; counts of tokens are none."""
    for name in event:
        if any(word in name.lower() for word in _SECRET) and not name.endswith("_tokens"):
            event[name] = "(hidden)"
    return event
