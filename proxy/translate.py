"""``dragoman translate``: a translation without a server."""

import argparse
import sys
from pathlib import Path

import msgspec

from translators import CODECS
from translators.context import counting_ids
from translators.dialect import Dialect
from translators.errors import ErrorInfo, TranslationError
from translators.profiles import PROFILES
from translators.translation import Translation
from translators.wire import JSON, decode_object, encode

KINDS = ("request", "reply", "stream")


def add_translate_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to a parser."""
    dialects = [dialect.value for dialect in Dialect]
    parser.add_argument("--from", dest="source", choices=dialects, required=True)
    parser.add_argument("--to", dest="target", choices=dialects, required=True)
    parser.add_argument("--kind", choices=KINDS, default="request")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="vllm")
    parser.add_argument(
        "--request",
        metavar="FILE",
        help="the caller's request, which replies and streams repeat in part",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="what to translate (stdin)")


def translate(options: argparse.Namespace) -> int:
    """Print the translation; what was lost goes to standard error.

    A request goes from the caller's dialect to the upstream's, replies and streams come back:
    ``--from`` is always the dialect of what is read. Ids are counted and the time stands still,
    so that the same input gives the same output. The exit status is 1 for a stream that failed.

    Raises:
        TranslationError: It cannot be translated.
    """
    data = Path(options.file).read_bytes() if options.file else sys.stdin.buffer.read()
    caller, upstream = options.source, options.target
    if options.kind != "request":
        caller, upstream = upstream, caller
    if caller not in CODECS:
        raise TranslationError(f"No caller speaks {caller}; requests are only translated to it.")
    translation = Translation.between(
        caller,
        upstream,
        profile=PROFILES[options.profile],
        new_id=counting_ids(),
        now=lambda: 0.0,
    )
    if options.request:
        translation.request(decode_object(Path(options.request).read_bytes()))
    failure: ErrorInfo | None = None
    match options.kind:
        case "request":
            _print(translation.request(decode_object(data)))
        case "reply":
            _print(translation.reply(decode_object(data)))
        case _:
            translator = translation.stream()
            sys.stdout.buffer.write(translator.feed(data) + translator.finish())
            sys.stdout.buffer.flush()
            failure = translator.failure
    for loss in translation.losses:
        sys.stderr.write(f"lost: {loss.param}: {loss.why}\n")
    if failure is not None:
        sys.stderr.write(f"failed: {failure.message}\n")
        return 1
    return 0


def _print(document: JSON) -> None:
    sys.stdout.buffer.write(msgspec.json.format(encode(document)) + b"\n")
    sys.stdout.buffer.flush()
