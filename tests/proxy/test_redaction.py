"""What a recording does not keep."""

from pathlib import Path

import pytest

from proxy.redaction import Redaction

PATTERNS = Redaction([], [])


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ('{"message":"Wrong key: sk-proj-abc_DEF-123456."}', '{"message":"Wrong key: REDACTED."}'),
        (
            '{"message":"Wrong key: sk-abcd****************wxyz"}',
            '{"message":"Wrong key: REDACTED"}',
        ),
        (r'{"text":"one\nsk-abcdefgh12345678\ttwo"}', r'{"text":"one\nREDACTED\ttwo"}'),
        ('"hf_abcdefghijklmnopqrst"', '"REDACTED"'),
        ('"ghp_abcdefghijklmnopqrst"', '"REDACTED"'),
        ('"AKIAABCDEFGHIJKLMNOP"', '"REDACTED"'),
        ('"eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"', '"REDACTED"'),
        ('"Authorization: Bearer abc.def-123"', '"Authorization: Bearer REDACTED"'),
        (
            '{"headers":{"Authorization":"secret words"}}',
            '{"headers":{"Authorization":"REDACTED"}}',
        ),
        (r'{"api_key" : "a\"b"}', '{"api_key" : "REDACTED"}'),
        (
            r'{"arguments":"{\"password\": \"hunter2\"}"}',
            r'{"arguments":"{\"password\": \"REDACTED\"}"}',
        ),
        (
            '{"cwd":"/home/alice/src","f":"/Users/bob"}',
            '{"cwd":"/home/user/src","f":"/Users/user"}',
        ),
        (r'{"cwd":"C:\\Users\\alice\\src"}', r'{"cwd":"C:\\Users\\user\\src"}'),
        (r'{"text":"a\n/home/alice/src"}', r'{"text":"a\n/home/user/src"}'),
    ],
)
def test_secrets_and_homes(body: str, kept: str) -> None:
    assert kept == PATTERNS.apply(body.encode()).decode()


@pytest.mark.parametrize(
    "body",
    [
        '{"token":"Oslo","logprob":-0.5,"top_logprobs":[{"token":" sk"}]}',
        '{"properties":{"api_key":{"type":"string"},"password":{"type":"string"}}}',
        '{"id":"chatcmpl-tool-9129dcbd005409cf","call_id":"call_abc"}',
        '{"url":"https://example.org/home/alice","path":"/v1/chat/completions"}',
        '{"text":"ask-me-anything-now, task-force-alpha, the bearer of news"}',
        '{"image_url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"}',
    ],
)
def test_all_else_stays(body: str) -> None:
    assert body == PATTERNS.apply(body.encode()).decode()


def test_given_secrets_and_paths() -> None:
    """The longest of several that fit; a secret in the form in which JSON writes it, too."""
    paths = [("/srv", "/a"), ("/srv/app", "/project"), ("/", "/never")]
    redaction = Redaction(['pass"word', ""], paths)
    body = rb'{"a":"pass\"word","b":"/srv/app/x.py","c":"/srv/application","d":"/srv:/opt/srv"}'
    assert redaction.apply(body) == (
        rb'{"a":"REDACTED","b":"/project/x.py","c":"/a/application","d":"/a:/opt/srv"}'
    )


def test_short_secret_is_no_part_of_a_word() -> None:
    redaction = Redaction(["token"], [])
    body = b'{"a":"my token.","prompt_tokens":3,"b":"the\\ntoken"}'
    assert redaction.apply(body) == b'{"a":"my REDACTED.","prompt_tokens":3,"b":"the\\nREDACTED"}'


def test_paths_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "people" / "me"
    (home / "code").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "code")
    redaction = Redaction.of_machine("k3y", None)
    body = f'{{"a":"{home}/code/x","b":"{home}/y","c":"k3y"}}'
    assert redaction.apply(body.encode()) == b'{"a":"/project/x","b":"/home/user/y","c":"REDACTED"}'
