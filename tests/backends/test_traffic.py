"""What counts as a sign of life, and what a broken reply is explained with."""

import pytest

from backends.base import Take, UpstreamReply, UpstreamRequest, pour
from backends.errors import BackendBrokeOff, BackendError
from backends.traffic import Traffic
from tests.backends.test_replicas import FakeReply

EXPLAINED = BackendBrokeOff("it was killed", backend="b")


class Breaking(FakeReply):
    """Pours one piece, and breaks off."""

    async def pour(self, take: Take) -> None:
        take(b"piece")
        raise BackendBrokeOff("cut", backend="b")


async def explain(error: BackendError) -> BackendError:
    assert str(error) == "cut"
    return EXPLAINED


@pytest.mark.parametrize("reply", [FakeReply("a"), Breaking("a")], ids=["read", "poured"])
async def test_pieces_count_however_they_come(reply: UpstreamReply) -> None:
    traffic = Traffic()
    taken: list[bytes] = []

    async def send(request: UpstreamRequest) -> UpstreamReply:
        return reply

    counted = await traffic.send(send, UpstreamRequest("POST", "/x"), explain)
    assert (traffic.open, traffic.heard) == (1, 1)
    try:
        await pour(counted, taken.append)
    except BackendBrokeOff as error:
        assert (isinstance(reply, Breaking), error) == (True, EXPLAINED)
    else:
        assert not isinstance(reply, Breaking)
    assert (taken, traffic.heard) == ([b"piece"], 2)
    await counted.aclose()
    assert traffic.open == 0
