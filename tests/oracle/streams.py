"""The check of an emitted stream, by the caller's dialect."""

from proxy import corpus
from proxy.corpus import Case
from tests.oracle.chat_stream import check_chat_stream
from tests.oracle.responses_stream import check_responses_stream
from translators.wire import decode_object


def check_stream(case: Case, stream: bytes) -> None:
    """Check a stream that a case's caller gets.

    Raises:
        AssertionError: It breaks the specification.
    """
    if case.caller == "responses":
        check_responses_stream(stream)
    else:
        options = decode_object(case.read(corpus.REQUEST)).get("stream_options") or {}
        check_chat_stream(stream, wants_usage=bool(options.get("include_usage")))
