"""Translation between the schemas of LLM APIs, without I/O.

``CODECS`` lists the dialects of callers, ``UPSTREAM_CODECS`` those of upstreams; nothing else
names them all. A request goes
``caller.read_request`` -> ``pipeline.run`` -> ``upstream.write_request``, a reply
``upstream.read_response`` -> ``caller.write_response``, and a stream through
``translators.stream.StreamTranslator``.
"""

from collections.abc import Mapping

from translators import chat, completions, responses
from translators.codec import Codec, UpstreamCodec
from translators.dialect import Dialect

CODECS: Mapping[Dialect, Codec] = {codec.dialect: codec for codec in (chat.CODEC, responses.CODEC)}
UPSTREAM_CODECS: Mapping[Dialect, UpstreamCodec] = {
    **CODECS,
    completions.CODEC.dialect: completions.CODEC,
}
