"""Why an upstream gave no reply."""


class BackendError(Exception):
    """No usable reply from an upstream.

    Attributes:
        backend: Name of the upstream.
        status: HTTP status to give the caller.
        code: Machine-readable error code to give the caller.
        retry_after_s: Seconds after which another try may work; ``None`` where no guess is fair.
    """

    status = 502
    code = "upstream_error"

    def __init__(self, message: str, *, backend: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.backend = backend
        self.retry_after_s = retry_after_s


class BackendUnavailable(BackendError):
    """Nothing answers at the upstream's address, or it is still starting."""

    status = 503
    code = "upstream_unavailable"


class BackendExited(BackendError):
    """The upstream's process ended; the message holds the reason and the tail of its log."""

    status = 503
    code = "upstream_exited"


class BackendTimeout(BackendError):
    """The upstream did not answer, or went silent, for longer than the set limit."""

    status = 504
    code = "upstream_timeout"


class BackendConnectTimeout(BackendTimeout):
    """No connection within the set limit, so that nothing was sent."""


class BackendQueueFull(BackendError):
    """The upstream has as many requests as it may, and as many as may wait for it do."""

    status = 503
    code = "queue_full"


class BackendQueueTimeout(BackendError):
    """The request waited for its turn for longer than the set limit, and was not sent."""

    status = 503
    code = "queue_timeout"


class BackendURLRefused(BackendError):
    """The request has no URL that can be sent, since the caller's part of it is too long."""

    status = 400
    code = "invalid_url"


class BackendBrokeOff(BackendError):
    """The connection broke while a reply was under way."""

    code = "upstream_stream_truncated"
