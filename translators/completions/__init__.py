"""OpenAI Completions, as an upstream of models that know no conversations.

No caller speaks it here. It is Chat without messages: prompts are rendered from Chat messages,
and replies are read as those of Chat with other names, so this package stands on that of Chat.

Reference: OpenAI API reference, "Completions", and vLLM's "OpenAI-compatible server",
"Completions API" and "Tokenizer API", read on 2026-11-23.
"""

from functools import partial

from translators.codec import UpstreamCodec
from translators.completions.reader import CompletionsReader
from translators.completions.request import write_request
from translators.completions.response import PARAMS, read_response
from translators.dialect import Dialect
from translators.envelope import read_error

CODEC = UpstreamCodec(
    dialect=Dialect.COMPLETIONS,
    path="/completions",
    write_request=write_request,
    read_response=read_response,
    read_error=partial(read_error, params=PARAMS),
    reader=CompletionsReader,
)
