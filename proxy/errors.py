"""Any exception as an error for the caller."""

from backends.errors import BackendError
from proxy.bodies import BodyError
from translators import envelope
from translators.errors import ErrorInfo, TranslationError


def info_of(error: TranslationError | BackendError | BodyError) -> ErrorInfo:
    """What the caller is told of an exception."""
    match error:
        case TranslationError():
            return envelope.info_of(error)
        case BodyError():
            return ErrorInfo(str(error), error.status, "invalid_request_error")
        case BackendError():
            return ErrorInfo(
                str(error), error.status, code=error.code, retry_after_s=error.retry_after_s
            )
