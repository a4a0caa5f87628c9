import pytest

from translators.errors import UpstreamProtocolError
from translators.sse import DONE, Frame, SSEDecoder, encode_frame


def decode(*pieces: bytes) -> list[Frame]:
    decoder = SSEDecoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)] + decoder.finish()


@pytest.mark.parametrize(
    "pieces",
    [
        (b"data: 1\r\n\r\n", b"data: 2\r\n\r\n"),
        (b"data: 1\r", b"\n\r", b"\ndata: 2\r", b"\n\r\n"),
        (b"data: 1\r", b"\r", b"data: 2\r", b"\r"),
        (b"data: 1\n", b"\n", b"", b"data: 2\n\n"),
        (b"\xef", b"\xbb", b"\xbfdata: 1\n\ndata: 2\n\n"),
        (b"\xef\xbb\xbf", b"data: 1\n\ndata: 2\n\n"),
        (b"da", b"ta", b": ", b"1\n\ndata: 2"),
    ],
)
def test_pieces(pieces: tuple[bytes, ...]) -> None:
    """Line ends and the byte order mark may be cut anywhere."""
    assert [Frame(None, b"1"), Frame(None, b"2")] == decode(*pieces)


def test_cut_crlf_ends_one_line_only() -> None:
    assert [Frame(None, b"1\n2")] == decode(b"data: 1\r", b"\ndata: 2\r", b"\n\r\n")


def test_cr_then_another_character() -> None:
    assert [Frame(None, b"1\n2")] == decode(b"data: 1\r", b"data: 2\r", b"\r")


def test_incomplete_mark_is_data_of_its_line() -> None:
    assert [Frame(None, b"1")] == decode(b"\xef", b"\xbb", b"x\n", b"data: 1\n\n")


def test_frames_come_when_they_are_complete() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\n") == []
    assert [Frame(None, b"1")] == decoder.feed(b"\n")
    assert decoder.finish() == []


def test_finish_flushes_once() -> None:
    decoder = SSEDecoder()
    decoder.feed(b"event: a\ndata: 1")
    assert [Frame("a", b"1")] == decoder.finish()
    assert decoder.finish() == []


def test_event_name_does_not_stick() -> None:
    assert [Frame("a", b"1"), Frame(None, b"2")] == decode(b"event:a\ndata:1\n\ndata:2\n\n")


@pytest.mark.parametrize(
    "pieces",
    [(b"data: 0123456789",), (b"data: 01", b"234567"), (b"data: 01234\n", b"data: 56789\n")],
)
def test_limit(pieces: tuple[bytes, ...]) -> None:
    decoder = SSEDecoder(limit_bytes=9)
    with pytest.raises(UpstreamProtocolError, match="exceeds 9 bytes"):
        for piece in pieces:
            decoder.feed(piece)


def test_limit_holds_for_each_event() -> None:
    decoder = SSEDecoder(limit_bytes=9)
    assert sum(len(decoder.feed(b"data: 1\n\n")) for _ in range(50)) == 50


def test_encode_frame() -> None:
    assert encode_frame(None, b"1") == b"data: 1\n\n"
    assert encode_frame("a", b"1") == b"event: a\ndata: 1\n\n"
    assert [Frame(None, b"[DONE]")] == decode(DONE)
