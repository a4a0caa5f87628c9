"""OpenAI Responses.

Reference: OpenAI API reference, "Responses", and the Open Responses specification of 2026-04-24,
both read on 2026-11-23.
"""

from functools import partial

from translators.canonical import Request, Response
from translators.codec import Codec, StreamReader, StreamWriter
from translators.context import Context
from translators.dialect import Dialect
from translators.envelope import read_error, write_error
from translators.profiles import ThinkTags
from translators.responses.compaction import CompactingWriter, compact
from translators.responses.reader import ResponsesReader
from translators.responses.request import read_request, write_request
from translators.responses.response import PARAMS, WRITE_PARAMS, read_response, write_response
from translators.responses.thoughts import ThoughtReader, split_thoughts
from translators.responses.writer import ResponsesWriter
from translators.wire import JSON


def _write_response(response: Response, request: Request, ctx: Context) -> dict[str, JSON]:
    return write_response(compact(response, ctx) if ctx.compacts else response, request, ctx)


def _writer(request: Request, ctx: Context) -> StreamWriter:
    writer = ResponsesWriter(request, ctx)
    return CompactingWriter(writer, ctx) if ctx.compacts else writer


def _read_response(body: dict[str, JSON], ctx: Context) -> Response:
    response = read_response(body, ctx)
    response.output = split_thoughts(response.output, ctx)
    return response


def _reader(ctx: Context) -> StreamReader:
    reader = ResponsesReader(ctx)
    return reader if ctx.profile.think_tags is ThinkTags.OFF else ThoughtReader(reader, ctx)


CODEC = Codec(
    dialect=Dialect.RESPONSES,
    path="/responses",
    params=WRITE_PARAMS,
    read_request=read_request,
    write_request=write_request,
    read_response=_read_response,
    write_response=_write_response,
    read_error=partial(read_error, params=PARAMS),
    write_error=partial(write_error, params=WRITE_PARAMS),
    reader=_reader,
    writer=_writer,
)
