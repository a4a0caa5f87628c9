"""The session of a request: which sign counts, and that a conversation keeps its own."""

import base64

import msgspec
import pytest

from proxy.session import is_guessed, name_session, session_of
from tests.proxy.dialects import chat_request, responses_request
from translators.wire import JSON

Pairs = list[tuple[bytes, bytes]]
HEADERS = (
    *("x-session-id", "session-id", "session_id", "thread-id", "conversation_id"),
    "x-dragoman-rollout",
)


def both(headers: Pairs, body: JSON) -> str | None:
    """The session of a request, which is the same for its text and for its document."""
    found = session_of(headers, msgspec.json.encode(body))
    assert session_of(headers, body) == found
    return found


def cookie(state: JSON, signed: str = "aSOlug.sig", name: str = "VLLMModel___policy") -> str:
    """NeMo Gym's cookie as Starlette writes it."""
    return f"{name}={base64.b64encode(msgspec.json.encode(state)).decode()}.{signed}"


def test_first_sign_that_is_there_counts() -> None:
    body = chat_request(prompt_cache_key="k", previous_response_id="resp_1")
    found: Pairs = [(name.encode(), b"v") for name in reversed(HEADERS)]
    found.append((b"cookie", cookie({"session_id": "gym"}).encode()))
    for name in HEADERS:
        assert both(found, body) == f"{name}:v"
        found = [pair for pair in found if pair[0] != name.encode()]
    assert both(found, body) == "cookie:gym"
    assert both([], body) == "prompt_cache_key:k"
    del body["prompt_cache_key"]
    assert both([], body) == "previous_response_id:resp_1"
    del body["previous_response_id"]
    assert str(both([], body)).startswith("prefix:")


def test_empty_and_misshapen_signs_do_not_count() -> None:
    headers = [(b"x-session-id", b""), (b"thread-id", b"t")]
    assert both(headers, {}) == "thread-id:t"
    body = chat_request(prompt_cache_key="", previous_response_id=5)
    assert both([], body) == both([], chat_request())


def test_last_of_several_headers_with_one_name_counts() -> None:
    assert both([(b"thread-id", b"a"), (b"thread-id", b"b")], {}) == "thread-id:b"


def test_long_signs_make_short_keys() -> None:
    """Keys are remembered, so that long ones would be a way to fill the memory."""
    signs = ["k" * 512, "k" * 513, "k" * 100_000 + "a", "k" * 100_000 + "ü"]
    keys = [both([], chat_request(prompt_cache_key=sign)) for sign in signs]
    keys += [both([(b"x-session-id", sign.encode("latin-1"))], {}) for sign in signs]
    assert keys[0] == f"prompt_cache_key:{signs[0]}"
    assert len(set(keys)) == len(keys)
    assert all(key is not None and len(key) <= 512 + len("prompt_cache_key:") for key in keys)


def test_credentials_are_no_sign() -> None:
    headers = [(b"authorization", b"Bearer a"), (b"x-request-id", b"1"), (b"cookie", b"s=1")]
    assert both(headers, chat_request()) == both([], chat_request())


def test_cookie_of_a_new_session_is_read_again() -> None:
    key, (header, value) = name_session("s-1")
    assert header == b"set-cookie"
    assert both([(b"cookie", value.partition(b";")[0])], chat_request()) == key


def test_what_names_a_session_is_no_guess() -> None:
    assert is_guessed(both([], chat_request()))
    assert is_guessed(both([], {}))
    assert not is_guessed(both([(b"x-session-id", b"a")], chat_request()))
    assert not is_guessed(both([], chat_request(prompt_cache_key="k")))
    assert not is_guessed(name_session("s-1")[0])


def test_nemo_gyms_cookie_is_signed_anew_but_keeps_its_session() -> None:
    first = cookie({"session_id": "u-1"}, "aSOlug.x")
    later = f'a=b; {cookie({"session_id": "u-1"}, "aSOmzz.y")}; c="d"'
    assert both([(b"cookie", first.encode())], {}) == "cookie:u-1"
    assert both([(b"cookie", later.encode())], {}) == "cookie:u-1"


@pytest.mark.parametrize(
    "value",
    [
        cookie({"session_id": ""}),
        cookie({"session_id": 5}),
        cookie({}),
        cookie([]),
        cookie({"session_id": "u"}, name="session"),
        "A___b=%%%.x.y",
        "A___b=aGk=.x.y",
        "A___b=/w==.x.y",
        "A___b=\xff",
        "A___b",
        "",
    ],
)
def test_other_cookies_do_not_count(value: str) -> None:
    assert both([(b"cookie", value.encode("latin-1"))], {}) is None


def test_chat_keeps_its_session_as_it_grows() -> None:
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Hello"}
    rest = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": "And now?"},
    ]
    first = both([], {"model": "m", "messages": [system, user]})
    assert first is not None
    assert both([], {"model": "m", "messages": [system, user, *rest], "tools": []}) == first
    assert both([], {"model": "m", "messages": [user, *rest]}) != first
    assert both([], {"model": "n", "messages": [system, user]}) != first
    assert both([], {"model": "m", "messages": [system, rest[-1]]}) != first


def test_responses_input_as_text_and_as_items_is_the_same() -> None:
    first = both([], responses_request("Hello", instructions="Be brief."))
    items = [
        {"role": "user", "content": "Hello"},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    assert both([], {"model": "m", "instructions": "Be brief.", "input": items}) == first
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    assert both([], {"model": "m", "instructions": "Be brief.", "input": parts}) == first
    developer = [{"role": "developer", "content": "Be brief."}, *items]
    assert both([], {"model": "m", "input": developer}) == first
    assert both([], responses_request("Hello")) != first


def test_parts_are_not_joined() -> None:
    def of(*texts: str) -> str | None:
        parts = [{"type": "text", "text": text} for text in texts]
        return both([], {"model": "m", "messages": [{"role": "user", "content": parts}]})

    assert of("ab", "c") != of("a", "bc")


def test_images_count() -> None:
    def of(url: str) -> str | None:
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        return both([], {"model": "m", "messages": [{"role": "user", "content": parts}]})

    assert of("data:1") != of("data:2")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "system", "content": "x"}]},
        {"model": "m", "input": []},
        {"model": "m", "messages": None, "input": None},
    ],
)
def test_without_a_user_message_there_is_no_session(body: JSON) -> None:
    assert both([], body) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"messages": 5}',
        b'{"messages": ["x"]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": ' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    ],
    ids=range(8),
)
def test_what_cannot_be_read_has_no_session(body: bytes) -> None:
    assert session_of([], body) is None


def test_lone_surrogates_are_read() -> None:
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    assert session_of([], body) == session_of(
        [], {"messages": [{"role": "user", "content": "\ufffd"}]}
    )


def test_key_is_the_same_in_every_version() -> None:
    """Proxies of several versions stand side by side during an upgrade."""
    assert both([], chat_request("Hello")) == "prefix:ae70bb5bf1f3425857235d488ae6cfad"
