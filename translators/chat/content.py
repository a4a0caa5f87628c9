"""Content of Chat messages, both ways.

Spec: Chat Completions, "messages", ``content``.
"""

from collections.abc import Sequence

from translators.canonical import Audio, File, Image, OpaquePart, Part, Refusal, Text
from translators.chat import schema
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import MalformedRequest, TranslationError, UnsupportedFeature
from translators.wire import JSON, open_as

_PLAIN = (Text, Refusal)  # a tuple: ``Text | Refusal`` would be made anew at each use
_TEXTS = ("text", "input_text", "output_text")
_SAID = (None, *_TEXTS, "refusal")


def read_content(
    content: str | list[JSON] | None,
    path: str,
    fault: type[TranslationError] = MalformedRequest,
) -> list[Part]:
    """Parts of a message's ``content``, which may be text, a list of parts, or absent."""
    if isinstance(content, str):
        return [Text(content)]
    if content is None:
        return []
    return [_read_part(part, f"{path}[{i}]", fault) for i, part in enumerate(content)]


def part_thoughts(content: list[JSON], ctx: Context) -> tuple[str, list[JSON]]:
    """The thoughts among the parts of a reply's ``content``, where Mistral has them, and the rest.

    A part of type ``thinking`` holds a text, or a list of text parts, in its member ``thinking``.
    Parts that are neither thoughts nor text, such as its ``reference``, are recorded as lost.
    """
    thoughts = ""
    rest = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind in _SAID:
            rest.append(part)
        elif kind == "thinking":
            thinking = part.get("thinking")
            pieces = thinking if isinstance(thinking, list) else [{"text": thinking}]
            texts = [piece.get("text") for piece in pieces if isinstance(piece, dict)]
            thoughts += "".join(text for text in texts if isinstance(text, str))
        else:
            ctx.lose("output", f"the upstream's part '{kind}' cannot be said")
    return thoughts, rest


def _read_part(body: JSON, path: str, fault: type[TranslationError]) -> Part:
    if isinstance(body, str):
        return Text(body)
    part = open_as(schema.ContentPart, body, path, fault)
    if part.text is not None and part.type in _TEXTS:
        return Text(part.text)
    match part:
        case schema.ContentPart(type="refusal", refusal=str(refusal)):
            return Refusal(refusal)
        case schema.ContentPart(type="image_url", image_url=str(url)) if url:
            return Image(url=url, param=path)
        case schema.ContentPart(type="image_url", image_url=schema.ImageURL() as image) if (
            image.url
        ):
            return Image(url=image.url, detail=image.detail, param=path)
        case schema.ContentPart(type="input_audio", input_audio=schema.InputAudio() as audio):
            return Audio(audio.data, audio.format, param=path)
        case schema.ContentPart(type="file", file=schema.FileData() as file):
            return File(
                data=file.file_data, file_id=file.file_id, filename=file.filename, param=path
            )
        case schema.ContentPart(
            type="text" | "refusal" | "image_url" | "input_audio" | "file" as kind
        ):
            raise fault(f"Invalid '{path}': a '{kind}' part needs a '{kind}'.", param=path)
    return OpaquePart(Dialect.CHAT, part.type, body, param=path)


def write_content(parts: Sequence[Part], ctx: Context, *, joint: str = "\n") -> JSON:
    """``content`` of a message: a string if all parts are text, else a list of parts.

    Plain text is sent as one string because some templates take nothing else. ``joint`` goes
    between its parts: a line end, as vLLM itself joins them, or nothing for the model's own text.

    Raises:
        UnsupportedFeature: The upstream has no place for a part.
    """
    if len(parts) == 1 and type(part := parts[0]) is Text:
        return part.text
    texts = [part.text for part in parts if isinstance(part, _PLAIN)]
    if len(texts) == len(parts):
        return joint.join(texts)
    return [write_part(part, ctx) for part in parts]


def write_part(part: Part, ctx: Context) -> JSON:
    """One content part.

    Raises:
        UnsupportedFeature: The upstream has no place for it.
    """
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Refusal(text=text):
            return {"type": "refusal", "refusal": text}
        case Image(url=str(url), detail=detail):
            image = {"url": url} if detail is None else {"url": url, "detail": detail}
            return {"type": "image_url", "image_url": image}
        case Image():
            raise UnsupportedFeature(
                "An image by file id needs a file store; send it as an image_url.",
                param=part.param,
            )
        case Audio(data=data, format=audio_format):
            return {"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}
        case File():
            return _write_file(part)
        case OpaquePart(dialect=Dialect.CHAT):
            return part.body
    raise UnsupportedFeature(
        f"A '{part.kind}' part cannot be sent to a Chat Completions upstream.", param=part.param
    )


def _write_file(part: File) -> JSON:
    if part.url is not None:
        raise UnsupportedFeature("Chat Completions takes no files by URL.", param=part.param)
    members = {"file_data": part.data, "file_id": part.file_id, "filename": part.filename}
    return {"type": "file", "file": {k: v for k, v in members.items() if v is not None}}
