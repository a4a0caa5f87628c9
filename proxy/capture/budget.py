"""How much memory calls may hold until they are written."""


class Budget:
    """Counts bytes; taken on the event loop, freed by the writer's thread.

    Each side has a count of its own, so that neither needs a lock.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Make a budget of ``limit_bytes``."""
        self._limit_bytes = limit_bytes
        self._taken = 0
        self._freed = 0

    def take(self, size_bytes: int) -> bool:
        """Take so many bytes; if there is no room for them, they have to be given back."""
        self._taken += size_bytes
        return self._taken - self._freed <= self._limit_bytes

    def give_back(self, size_bytes: int) -> None:
        """Undo ``take``, on the event loop."""
        self._taken -= size_bytes

    def free(self, size_bytes: int) -> None:
        """Give back what was written, on the writer's thread."""
        self._freed += size_bytes
