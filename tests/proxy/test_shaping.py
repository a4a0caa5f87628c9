"""What becomes of a request's members: settings, metadata, and who wins."""

import msgspec
import pytest

from proxy.model_settings import shaping_of
from proxy.settings import Model
from proxy.shaping import PLAIN, Change, Extras, read_extras
from translators.dialect import Dialect
from translators.errors import MalformedRequest, UnsupportedFeature
from translators.profiles import PROFILES, Profile
from translators.wire import JSON, encode, open_members, peek

BOTH = pytest.mark.parametrize("dialect", list(Dialect))


def change(
    body: JSON, dialect: Dialect = Dialect.CHAT, profile: Profile | None = None, **members: JSON
) -> Change | None:
    """What a model with these settings changes in a request."""
    model = Model(name=body.get("model", "m"), **members)
    head = peek(encode(body))
    return shaping_of(model, profile or PROFILES["vllm"]).change(head, dialect)


def shaped(
    body: JSON, dialect: Dialect = Dialect.CHAT, profile: Profile | None = None, **members: JSON
) -> JSON:
    """A request as it goes out: the same of decoded members and of bytes."""
    found = change(body, dialect, profile, **members)
    assert found is not None
    decoded = found.apply(body)
    assert msgspec.json.decode(encode(found.apply(open_members(encode(body))))) == decoded
    return decoded


def asking(**extras: JSON) -> JSON:
    """Metadata with these objects as strings."""
    return {name: encode(value).decode() for name, value in extras.items()}


@BOTH
def test_nothing_is_changed_without_a_reason(dialect: Dialect) -> None:
    """Then bytes pass as they are."""
    for metadata in (None, {}, {"a": "b"}, "text", ["extra_body"], 5):
        assert change({"model": "m", "metadata": metadata}, dialect) is None
        assert PLAIN.change(peek(encode({"metadata": metadata})), dialect) is None


@BOTH
def test_an_untouched_member_keeps_its_bytes(dialect: Dialect) -> None:
    body = b'{"x": 1e400, "chat_template_kwargs": {"a" : 1.0}, "metadata": {"b" :"c"}}'
    found = shaping_of(Model(name="m", sets={"seed": 7}), Profile()).change(peek(body), dialect)
    assert found is not None
    assert encode(found.apply(open_members(body))) == (
        b'{"x":1e400,"chat_template_kwargs":{"a" : 1.0},"metadata":{"b" :"c"},"seed":7}'
    )


def test_who_wins() -> None:
    """Low to high: defaults, ``metadata.extra_body``, the request, ``sets``."""
    metadata = asking(extra_body={"b": "extra", "c": "extra", "d": "extra"})
    assert shaped(
        {"model": "m", "c": "request", "d": "request", "n": None, "metadata": metadata},
        defaults={"a": "default", "b": "default", "c": "default", "n": 1},
        sets={"d": "set", "e": "set"},
    ) == {
        "model": "m",
        "a": "default",
        "b": "extra",
        "c": "request",
        "d": "set",
        "e": "set",
        "n": None,
    }


@pytest.mark.parametrize(
    ("body", "dialect", "relay", "is_refused"),
    [
        ({"messages": []}, Dialect.CHAT, True, False),
        ({"messages": []}, Dialect.CHAT, False, True),
        ({"messages": []}, Dialect.COMPLETIONS, True, True),
        ({"messages": []}, Dialect.RESPONSES, True, True),
        ({"messages": [], "n": 2}, Dialect.COMPLETIONS, True, False),
        ({"input": "x"}, Dialect.CHAT, True, True),
        ({"input": "x"}, Dialect.RESPONSES, True, False),
    ],
)
def test_choices_that_nobody_reads_are_refused(
    body: JSON, dialect: Dialect, relay: bool, is_refused: bool
) -> None:
    """A relayed reply passes with all of them; what the request says itself goes before."""
    for count in (None, 1, 3):
        found = change({**body, "metadata": asking(extra_body={"n": count})}, dialect, relay=relay)
        assert found is not None
        if is_refused and count == 3:
            with pytest.raises(UnsupportedFeature) as caught:
                found.apply(body)
            assert caught.value.param == "metadata.extra_body"
        else:
            assert found.apply(body)["n"] == body.get("n", count)


@pytest.mark.parametrize("where", ["defaults", "sets"])
def test_choices_of_the_settings_are_refused_where_nobody_reads_them(where: str) -> None:
    settings: dict[str, JSON] = {where: {"n": 3}}
    relayed = change({"messages": []}, **settings)
    assert relayed is not None
    assert relayed.apply({})["n"] == 3
    translated = change({"input": "x"}, **settings)
    assert translated is not None
    with pytest.raises(UnsupportedFeature, match="settings") as caught:
        translated.apply({})
    assert caught.value.param is None


def test_template_arguments_are_merged_key_by_key() -> None:
    metadata = asking(
        chat_template_kwargs={"d": "metadata", "e": "metadata", "f": "metadata"},
        extra_body={"chat_template_kwargs": {"c": "extra", "d": "extra"}},
    )
    own = {"e": "request", "f": "request"}
    assert shaped(
        {"chat_template_kwargs": own, "metadata": metadata},
        chat_template_kwargs={"b": "setting", "c": "setting"},
        defaults={"chat_template_kwargs": {"a": "default", "b": "default"}},
        sets={"chat_template_kwargs": {"f": "set"}},
    )["chat_template_kwargs"] == {
        "a": "default",
        "b": "setting",
        "c": "extra",
        "d": "metadata",
        "e": "request",
        "f": "set",
    }


@pytest.mark.parametrize("own", [{}, {"chat_template_kwargs": None}])
def test_template_arguments_of_a_silent_request(own: JSON) -> None:
    kwargs = {"enable_thinking": False}
    assert shaped({**own}, chat_template_kwargs=kwargs)["chat_template_kwargs"] == kwargs


def test_template_arguments_that_are_no_object() -> None:
    with pytest.raises(MalformedRequest) as caught:
        shaped({"chat_template_kwargs": "x"}, chat_template_kwargs={"a": 1})
    assert caught.value.param == "chat_template_kwargs"
    metadata = asking(extra_body={"chat_template_kwargs": 5})
    with pytest.raises(MalformedRequest, match="expected an object, not a number"):
        shaped({"metadata": metadata})


@BOTH
def test_metadata_is_sent_without_what_was_for_us(dialect: Dialect) -> None:
    asked = asking(chat_template_kwargs={"a": 1}, extra_body={})
    assert shaped({"metadata": {**asked, "user": "u"}}, dialect)["metadata"] == {"user": "u"}
    assert "metadata" not in shaped({"metadata": asked}, dialect)
    assert "metadata" not in shaped({"metadata": asking(extra_body={})}, dialect)


def test_only_the_responses_api_echoes_metadata() -> None:
    body = {"model": "m", "metadata": asking(extra_body={})}
    for dialect, restored in ((Dialect.CHAT, {}), (Dialect.RESPONSES, {"metadata"})):
        found = change(body, dialect)
        assert found is not None
        assert found.restores().keys() == set(restored)


@pytest.mark.parametrize("name", ["chat_template_kwargs", "extra_body"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1]", "expected a JSON object in the string, not an array"),
        ("null", "expected a JSON object in the string, not null"),
        ({"a": 1}, "expected a string with a JSON object, not an object"),
        (None, "expected a string with a JSON object, not null"),
    ],
)
def test_metadata_that_is_wrong(name: str, value: JSON, words: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        read_extras({name: value})
    assert caught.value.param == f"metadata.{name}"
    assert words in str(caught.value)


def test_metadata_with_half_a_surrogate_pair() -> None:
    assert read_extras({"extra_body": '{"a":"\\ud83d"}'}) == Extras({}, {"a": "\ufffd"})


NO_SWITCH = Profile(efforts={"none": "minimal"})


@pytest.mark.parametrize(
    ("dialect", "profile", "sent", "expected"),
    [
        (
            Dialect.CHAT,
            PROFILES["vllm"],
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": True, "a": 1}},
            {
                "reasoning_effort": "none",
                "chat_template_kwargs": {"enable_thinking": False, "a": 1},
            },
        ),
        (Dialect.CHAT, NO_SWITCH, {}, {"reasoning_effort": "minimal"}),
        (
            Dialect.RESPONSES,
            NO_SWITCH,
            {"reasoning": {"effort": "high", "summary": "auto"}},
            {"reasoning": {"effort": "minimal", "summary": "auto"}},
        ),
        (Dialect.RESPONSES, Profile(), {}, {"reasoning": {"effort": "none"}}),
    ],
)
def test_a_model_that_must_not_reason(
    dialect: Dialect, profile: Profile, sent: JSON, expected: JSON
) -> None:
    assert shaped(sent, dialect, profile, reasoning=False) == expected


@pytest.mark.parametrize(
    ("dialect", "profile", "sent", "expected"),
    [
        (
            Dialect.CHAT,
            PROFILES["vllm"],
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}},
            {"chat_template_kwargs": {"enable_thinking": True}},
        ),
        (Dialect.CHAT, Profile(), {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            Dialect.RESPONSES,
            Profile(),
            {"reasoning": {"effort": "none", "summary": "auto"}},
            {"reasoning": {"summary": "auto"}},
        ),
        (Dialect.RESPONSES, Profile(), {"reasoning": None}, {"reasoning": None}),
    ],
)
def test_a_model_that_must_reason(
    dialect: Dialect, profile: Profile, sent: JSON, expected: JSON
) -> None:
    assert shaped(sent, dialect, profile, reasoning=True) == expected
