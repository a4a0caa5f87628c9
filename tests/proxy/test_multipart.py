"""Forms: the field is found wherever it stands, and nothing else is taken for it."""

import httpx
import pytest

from proxy.multipart import find_field

TYPE = "multipart/form-data; boundary=b"


def part(head: str, value: bytes) -> bytes:
    return b"--b\r\n" + head.encode("latin-1") + b"\r\n\r\n" + value + b"\r\n"


def field(name: str, value: bytes) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', value)


FILE = part(
    'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav',
    b'\r\n\r\n--not\r\nname="model"\r\n\r\nno\r\n-',
)
END = b"--b--\r\n"

FOUND = {
    "first": (field("model", b"m") + FILE + END, TYPE, b"m"),
    "last": (FILE + field("language", b"en") + field("model", b"m") + END, TYPE, b"m"),
    "first of two": (field("model", b"m") + field("model", b"n") + END, TYPE, b"m"),
    "empty": (field("model", b"") + FILE + END, TYPE, b""),
    "preamble": (b"hello\r\n" + field("model", b"m") + END + b"bye", TYPE, b"m"),
    "unquoted": (part("content-disposition: form-data; name=model", b"m") + END, TYPE, b"m"),
    "other headers": (
        part('Content-Type: text/plain\r\nContent-Disposition: form-data; name="model"', b"m")
        + END,
        TYPE,
        b"m",
    ),
    "headers after": (
        part('Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain', b"m")
        + END,
        TYPE,
        b"m",
    ),
    "members after": (
        part('Content-Disposition: form-data; name="model"; x=y', b"m") + END,
        TYPE,
        b"m",
    ),
    "quoted boundary": (field("model", b"m") + END, 'multipart/form-data; boundary="b"', b"m"),
    "not UTF-8": (field("model", b"\xff\r\n-") + END, TYPE, b"\xff\r\n-"),
}


@pytest.mark.parametrize("case", FOUND)
def test_found(case: str) -> None:
    body, content_type, value = FOUND[case]
    at = find_field(body, content_type, "model")
    assert at is not None
    assert body[at] == value


ABSENT = {
    "no field": (FILE + END, TYPE),
    "longer name": (field("models", b"m") + field("a model", b"m") + END, TYPE),
    "after the end": (FILE + END + field("model", b"m"), TYPE),
    "no boundary": (field("model", b"m") + END, "multipart/form-data"),
    "another boundary": (field("model", b"m") + END, "multipart/form-data; boundary=c"),
    "cut": (field("model", b"m").removesuffix(b"\r\n"), TYPE),
    "cut in the head": (b'--b\r\nContent-Disposition: form-data; name="model"', TYPE),
    "empty": (b"", TYPE),
}


@pytest.mark.parametrize("case", ABSENT)
def test_absent(case: str) -> None:
    assert find_field(*ABSENT[case], "model") is None


def test_form_of_a_client() -> None:
    """The SDKs use httpx."""
    files = {"file": ("a.wav", b"\x00\r\n--" * 1000, "audio/wav")}
    request = httpx.Request("POST", "http://x", data={"model": "org/name"}, files=files)
    at = find_field(request.read(), request.headers["content-type"], "model")
    assert at is not None
    assert request.content[at] == b"org/name"
