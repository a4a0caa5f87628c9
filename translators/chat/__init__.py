"""OpenAI Chat Completions.

Reference: OpenAI API reference, "Chat", and vLLM's "OpenAI-compatible server", both read on
2026-11-23.
"""

from functools import partial

from translators.chat.reader import make_reader
from translators.chat.request import read_request, write_request
from translators.chat.response import (
    PARAMS,
    WRITE_PARAMS,
    read_plain,
    read_response,
    write_response,
)
from translators.chat.writer import ChatWriter
from translators.codec import Codec
from translators.dialect import Dialect
from translators.envelope import read_error, write_error

CODEC = Codec(
    dialect=Dialect.CHAT,
    path="/chat/completions",
    params=WRITE_PARAMS,
    read_request=read_request,
    write_request=write_request,
    read_response=read_response,
    read_plain=read_plain,
    write_response=write_response,
    read_error=partial(read_error, params=PARAMS),
    write_error=partial(write_error, params=WRITE_PARAMS),
    reader=make_reader,
    writer=ChatWriter,
)
