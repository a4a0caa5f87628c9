"""What can go wrong in a translation, and what a target dialect cannot say."""

import msgspec


class TranslationError(Exception):
    """A body that cannot be translated.

    Attributes:
        param: Path of the offending member in the body's own schema, such as
            ``input[3].content[0].type``; ``None`` when the body as a whole is meant.
        code: Machine-readable error code; ``None`` if there is none.
        status: HTTP status to answer the caller with.
        type: OpenAI's error type.
    """

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class CallerError(TranslationError):
    """The caller's body is at fault."""

    status = 400
    type = "invalid_request_error"


class MalformedRequest(CallerError):
    """The body breaks the caller's own schema."""


class UnsupportedFeature(CallerError):
    """The body is valid, but the upstream cannot be told what it says."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="unsupported_feature")


class UpstreamProtocolError(TranslationError):
    """The upstream's body or stream breaks the upstream's schema."""

    status = 502

    def __init__(self, message: str, *, param: str | None = None) -> None:
        if "upstream" not in message:
            message = f"The upstream's answer breaks its schema: {message}"
        super().__init__(message, param=param, code="upstream_invalid_response")


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error on its way to a caller, in no dialect yet.

    ``status`` is an HTTP status; ``type`` and ``code`` use OpenAI's vocabulary
    (``invalid_request_error``, ``context_length_exceeded``); ``param`` is a member's path;
    ``retry_after_s`` is in seconds.
    """

    message: str
    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None


class Loss(msgspec.Struct, frozen=True):
    """A member that the target dialect or upstream has no place for.

    ``param`` is its path in the body it came from, ``why`` a short sentence.
    """

    param: str
    why: str
