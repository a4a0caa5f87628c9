"""Content parts of Responses, both ways.

Spec: Responses, "Create a model response", ``input`` and ``output`` content.
"""

from collections.abc import Sequence

from translators.canonical import Audio, File, Image, OpaquePart, Part, Refusal, Role, Text
from translators.context import Context
from translators.dialect import Dialect
from translators.errors import MalformedRequest, TranslationError, UnsupportedFeature
from translators.responses import schema
from translators.responses.fates import PARTS
from translators.wire import JSON, encode, open_as

_VALUES = {
    "refusal": "refusal",
    "input_image": "image_url",
    "image_url": "image_url",
    "input_audio": "input_audio",
}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def read_content(
    content: JSON, path: str, fault: type[TranslationError] = MalformedRequest
) -> list[Part]:
    """Parts of a message's ``content`` or of a tool's ``output``.

    Text becomes one part, and so does a part that stands alone; a tool's output of another shape
    is kept as its JSON text.
    """
    if isinstance(content, str):
        return [Text(content)]
    if isinstance(content, list):
        return [_read_part(part, f"{path}[{i}]", fault) for i, part in enumerate(content)]
    match content:
        case None:
            return []
        case {"type": str(kind)} if kind in PARTS:
            return [_read_part(content, path, fault)]
    return [Text(encode(content).decode())]


def _read_part(body: JSON, path: str, fault: type[TranslationError]) -> Part:
    if isinstance(body, str):
        return Text(body)
    part = open_as(schema.ContentPart, body, path, fault)
    if part.type == "output_text" or (part.type in _TEXTS and part.text is not None):
        # Some servers end a message that says nothing with a null.
        return Text(part.text or "", part.annotations or [], part.logprobs or [])
    match part:
        case schema.ContentPart(type="refusal", refusal=str(refusal)):
            return Refusal(refusal)
        case schema.ContentPart(type="input_image" | "image_url", image_url={"url": str(url)}) if (
            url
        ):
            detail = part.image_url.get("detail") or part.detail
            return Image(url=url, detail=detail, param=path)
        case schema.ContentPart(type="input_image" | "image_url", image_url=str(url)) if url:
            return Image(url=url, detail=part.detail, param=path)
        case schema.ContentPart(type="input_image", file_id=str(file_id)):
            return Image(file_id=file_id, detail=part.detail, param=path)
        case schema.ContentPart(type="input_audio"):
            match part.input_audio:
                case {"data": str(data), "format": str(audio_format)}:
                    return Audio(data, audio_format, param=path)
        case schema.ContentPart(type="input_video"):
            return _read_video(body, path, fault)
        case schema.ContentPart(type="video_url" | "audio_url" as kind):
            return OpaquePart(Dialect.CHAT, kind, body, path)  # vLLM's, as it has them in Chat
        case schema.ContentPart(type="input_file"):
            return File(
                data=part.file_data,
                url=part.file_url,
                file_id=part.file_id,
                filename=part.filename,
                detail=part.detail,
                param=path,
            )
        case _ if part.type not in _TEXTS and part.type not in _VALUES:
            return OpaquePart(Dialect.RESPONSES, part.type, body, param=path)
    param = f"{path}.{_VALUES.get(part.type, 'text')}"
    raise fault(f"Missing required parameter: '{param}'.", param=param)


def _read_video(body: dict[str, JSON], path: str, fault: type[TranslationError]) -> Part:
    """A video in NeMo Gym's words, since Responses has no such part: a URL in one of two members.

    vLLM takes it in Chat, where it may also be an object with a URL.
    """
    given = [body[name] for name in ("video_url", "video") if body.get(name)]
    match given:
        case [str(url)] | [{"url": str(url)}] if url:
            video = given[0] if isinstance(given[0], dict) else {"url": url}
            return OpaquePart(
                Dialect.CHAT, "video_url", {"type": "video_url", "video_url": video}, path
            )
    param = f"{path}.video_url"
    raise fault(f"Invalid '{param}': expected a URL, here or in 'video'.", param=param)


def write_input(parts: Sequence[Part], role: Role = Role.USER) -> JSON:
    """``content`` of an input message, or ``output`` of a tool result.

    Plain text goes out as a string, which every server reads; the part types depend on the role.

    Raises:
        UnsupportedFeature: Responses has no such part.
    """
    if len(parts) == 1 and type(part := parts[0]) is Text:
        return part.text
    return [_write_input_part(part, role) for part in parts]


def _write_input_part(part: Part, role: Role) -> JSON:
    match part:
        case Text(text=text):
            kind = "output_text" if role is Role.ASSISTANT else "input_text"
            return {"type": kind, "text": text}
        case Refusal(text=text):
            return {"type": "refusal", "refusal": text}
        case Image():
            image = {"type": "input_image", "detail": part.detail or "auto"}
            if part.url is not None:
                return {**image, "image_url": part.url}
            return {**image, "file_id": part.file_id}
        case Audio(data=data, format=audio_format):
            audio = {"data": data, "format": audio_format}
            return {"type": "input_audio", "input_audio": audio}
        case File():
            members = {
                "file_data": part.data,
                "file_url": part.url,
                "file_id": part.file_id,
                "filename": part.filename,
                "detail": part.detail,
            }
            given = {name: value for name, value in members.items() if value is not None}
            return {"type": "input_file", **given}
        case OpaquePart(dialect=Dialect.RESPONSES):
            return part.body
    raise UnsupportedFeature(
        f"A '{part.kind}' part cannot be sent to a Responses upstream.", param=part.param
    )


def write_output(part: Part, ctx: Context) -> JSON:
    """A content part of an output message."""
    match part:
        case Text(text=text):
            return {
                "type": "output_text",
                "text": text,
                "annotations": part.annotations,
                "logprobs": write_logprobs(part.logprobs),
            }
        case Refusal(text=text):
            return {"type": "refusal", "refusal": text}
    ctx.lose("output", "a reply's media parts cannot be said in Responses")
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def write_logprobs(entries: Sequence[JSON]) -> list[JSON]:
    """Token log-probs with every member that Responses requires."""
    return [
        {**_write_token(entry), "top_logprobs": _write_alternatives(entry.get("top_logprobs"))}
        for entry in entries
    ]


def _write_alternatives(entries: JSON) -> list[JSON]:
    if not isinstance(entries, list):
        return []
    return [_write_token(entry) for entry in entries if isinstance(entry, dict)]


def _write_token(entry: dict[str, JSON]) -> dict[str, JSON]:
    return {
        "token": entry.get("token", ""),
        "logprob": entry.get("logprob", 0.0),
        "bytes": entry.get("bytes") or [],
    }
