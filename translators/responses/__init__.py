"""OpenAI Responses.

Reference: OpenAI API reference, "Responses", and the Open Responses specification of 2026-04-24,
both read on 2026-11-23.
"""

from functools import partial

from translators.canonical import Request, Response
from translators.codec import Codec, StreamWriter
from translators.context import Context
from translators.dialect import Dialect
from translators.envelope import read_error, write_error
from translators.responses.compaction import CompactingWriter, compact
from translators.responses.reader import ResponsesReader
from translators.responses.request import read_request, write_request
from translators.responses.response import PARAMS, WRITE_PARAMS, read_response, write_response
from translators.responses.writer import ResponsesWriter
from translators.wire import JSON


def _write_response(response: Response, request: Request, ctx: Context) -> dict[str, JSON]:
    return write_response(compact(response, ctx) if ctx.compacts else response, request, ctx)


def _writer(request: Request, ctx: Context) -> StreamWriter:
    writer = ResponsesWriter(request, ctx)
    return CompactingWriter(writer, ctx) if ctx.compacts else writer


CODEC = Codec(
    dialect=Dialect.RESPONSES,
    path="/responses",
    params=WRITE_PARAMS,
    read_request=read_request,
    write_request=write_request,
    read_response=read_response,
    write_response=_write_response,
    read_error=partial(read_error, params=PARAMS),
    write_error=partial(write_error, params=WRITE_PARAMS),
    reader=ResponsesReader,
    writer=_writer,
)
