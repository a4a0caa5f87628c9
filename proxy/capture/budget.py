"""How much memory calls may hold until they are written."""

import msgspec


class Budget(msgspec.Struct):
    """Counts bytes; each side has a count of its own, so that neither needs a lock.

    Attributes:
        limit_bytes: The most that may be taken and not freed.
        taken_bytes: What calls hold, and have held; counted on the event loop.
        freed_bytes: What was written; counted in the writer's thread.
    """

    limit_bytes: int
    taken_bytes: int = 0
    freed_bytes: int = 0
