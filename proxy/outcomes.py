"""What the translators make of a golden case."""

from dataclasses import dataclass, field

from proxy.corpus import ERROR, FRAMED, REPLY, REQUEST, SENT, STREAM, Case
from translators.canonical import Response
from translators.envelope import info_of
from translators.errors import ErrorInfo, TranslationError
from translators.events import Event, ResponseFailed
from translators.sse import SSEDecoder
from translators.translation import Translation
from translators.wire import JSON, decode, decode_object, encode


@dataclass
class Outcome:
    """What the translators make of a case: goldens by file name, losses, an error's status."""

    files: dict[str, JSON] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    status: int | None = None

    def lose(self, translation: Translation) -> None:
        """Note what a translation could not say."""
        new = [loss.param for loss in translation.losses if loss.param not in self.losses]
        self.losses += dict.fromkeys(new)

    def refuse(self, error: ErrorInfo, translation: Translation) -> None:
        """Note the error that the caller gets."""
        self.files["caller.error.json"] = translation.caller.write_error(error)
        self.status = error.status


def translate(case: Case) -> Outcome:
    """Run the checks that the files of a case select."""
    outcome = Outcome()
    translation = case.translation()
    try:
        request = translation.request(decode_object(case.read(REQUEST)))
    except TranslationError as error:
        outcome.refuse(info_of(error), translation)
        outcome.lose(translation)
        return outcome
    outcome.lose(translation)
    if SENT in case.files or not case.files & {REPLY, STREAM, ERROR}:
        outcome.files[SENT] = decode(encode(request))
    if ERROR in case.files:
        status = case.facts.status or 500  # there is one: ``load_case`` saw to it
        outcome.refuse(translation.error(status, case.read(ERROR))[0], translation)
    if REPLY in case.files:
        _translate_reply(case, outcome)
    if STREAM in case.files:
        translation = case.begin()
        stream = translation.stream()
        body = stream.feed(case.read(STREAM))
        outcome.files["caller.stream.sse"] = body + stream.finish()
        outcome.lose(translation)
    return outcome


def _translate_reply(case: Case, outcome: Outcome) -> None:
    translation = case.begin()
    try:
        response = whole(case, translation)
    except TranslationError as error:
        outcome.refuse(info_of(error), translation)
    else:
        if response.error is not None:
            outcome.refuse(response.error, translation)
        else:
            body = translation.write(response)
            outcome.files["caller.response.json"] = decode(encode(body))
    outcome.lose(translation)


def whole(case: Case, translation: Translation) -> Response:
    """The whole reply in the canonical model.

    Raises:
        TranslationError: It cannot be read.
    """
    return translation.read(case.read(REPLY))


def read_events(case: Case, translation: Translation) -> list[Event]:
    """The events of a case's stream, up to the first that ends it."""
    return events_of(case.read(STREAM), translation)


def events_of(stream: bytes, translation: Translation) -> list[Event]:
    """The events of a stream of the upstream's dialect, up to the first that ends it."""
    decoder = SSEDecoder()
    reader = translation.upstream.reader(translation.ctx)
    events: list[Event] = []
    try:
        for frame in decoder.feed(stream) + decoder.finish():
            events += reader.feed(frame)
        events += reader.finish()
    except TranslationError as error:
        events.append(ResponseFailed(info_of(error)))
    return events


def frames_of(case: Case) -> JSON:
    """The frames of a case of SSE framing, as its golden has them."""
    decoder = SSEDecoder()
    frames = decoder.feed(case.read(FRAMED)) + decoder.finish()
    return [{"event": frame.event, "data": frame.data.decode()} for frame in frames]
