"""OpenAI Responses.

Reference: OpenAI API reference, "Responses", and the Open Responses specification of 2026-04-24,
both read on 2026-11-23.
"""

from functools import partial

from translators.codec import Codec
from translators.dialect import Dialect
from translators.envelope import read_error, write_error
from translators.responses.reader import ResponsesReader
from translators.responses.request import read_request, write_request
from translators.responses.response import PARAMS, WRITE_PARAMS, read_response, write_response
from translators.responses.writer import ResponsesWriter

CODEC = Codec(
    dialect=Dialect.RESPONSES,
    path="/responses",
    params=WRITE_PARAMS,
    read_request=read_request,
    write_request=write_request,
    read_response=read_response,
    write_response=write_response,
    read_error=partial(read_error, params=PARAMS),
    write_error=partial(write_error, params=WRITE_PARAMS),
    reader=ResponsesReader,
    writer=ResponsesWriter,
)
