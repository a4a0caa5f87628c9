"""Translation between the schemas of LLM APIs, without I/O.

``CODECS`` lists the dialects; nothing else names them all. A request goes
``caller.read_request`` -> ``pipeline.run`` -> ``upstream.write_request``, a reply
``upstream.read_response`` -> ``caller.write_response``, and a stream through
``translators.stream.StreamTranslator``.
"""

from collections.abc import Mapping

from translators import chat, responses
from translators.codec import Codec
from translators.dialect import Dialect

CODECS: Mapping[Dialect, Codec] = {codec.dialect: codec for codec in (chat.CODEC, responses.CODEC)}
