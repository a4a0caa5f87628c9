"""The commands ``captures list``, ``show``, ``sum`` and ``export``."""

from pathlib import Path

import msgspec
import pytest

from proxy import cli, corpus, goldens
from proxy.capture.store import CaptureStore
from tests.proxy.caller import ask
from tests.proxy.captured import capturing, names
from tests.proxy.dialects import (
    CHAT,
    RESPONSES,
    chat_reply,
    chat_request,
    chat_stream,
    responses_request,
    streaming,
)
from tests.upstream import Answer, Reply
from translators.wire import JSON, decode

Capsys = pytest.CaptureFixture[str]


def record(**members: JSON) -> bytes:
    """A line with what is worth telling."""
    made = {
        "model_call_id": "c1",
        "dialect": "chat",
        "model_ref": {"type": "responses_api_models", "name": "local"},
        "started_at": 10.0,
        "completed_at": 11.5,
        "latency_ms": 1500.0,
        "latency_ttft_ms": 200.0,
        "status_code": 200,
        "error_category": None,
        "request": {"model": "m"},
        "response": {"model": "m"},
    }
    return msgspec.json.encode(made | members) + b"\n"


def call(name: str, kind: str = "function") -> JSON:
    return {"id": "x", "type": kind, kind: {"name": name}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rollouts: one of five calls with a damaged line, and one of which nothing is left."""
    store = CaptureStore(tmp_path / "captures")
    message = {"tool_calls": [call("ls"), call("edit", "custom")]}
    chat = {
        "model": "m",
        "choices": [
            {"message": message, "finish_reason": "tool_calls"},
            {"message": {"function_call": {"name": "ls"}}, "finish_reason": "length"},
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 7},
        },
    }
    output = [{"type": "function_call", "name": "ls"}, {"type": "web_search_call"}]
    details = {"output_tokens_details": {"reasoning_tokens": 1}}
    responses = {
        "model": "n",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [*output, {"type": "message"}],
        "usage": {"input_tokens": 10, "output_tokens": 3, **details},
    }
    odd = {"choices": [1, {"message": 5}], "usage": {"prompt_tokens": True}, "output": {}}
    store.append("a", [record(response=chat)])
    store.append("a", [record(dialect="responses", response=responses, latency_ms=500.0)])
    store.append("a", [b'{"torn\n'])
    error = {"error_category": "rate_limit", "status_code": 429, "response": None}
    store.append("a", [record(**error, model_call_id="c3", latency_ttft_ms=None, started_at=9.0)])
    store.append("a", [record(response=odd, model_ref=None, request=None)])
    store.append("a", [record(response={"status": "completed"}, completed_at=20.0)])
    store.mark_incomplete("b")
    return tmp_path / "captures"


def run(capsys: Capsys, *arguments: str) -> tuple[int, str]:
    status = cli.main(["captures", *arguments])
    return status, capsys.readouterr().out


def run_json(capsys: Capsys, *arguments: str) -> JSON:
    status, out = run(capsys, *arguments, "--json")
    assert status == 0
    return decode(out.encode())


def test_list(folder: Path, capsys: Capsys) -> None:
    status, out = run(capsys, "list", str(folder))
    assert (status, out.splitlines()) == (
        0,
        [
            "rollout  calls  tokens in  tokens out  errors",
            "a        5      110        23          1       damaged lines: 1",
            "b        0      -          -           0       incomplete",
        ],
    )
    one, other = run_json(capsys, "list", str(folder))
    assert one == {
        "rollout": "a",
        "calls": 5,
        "tokens_in": 110,
        "tokens_out": 23,
        "errors": 1,
        "is_incomplete": False,
        "damaged_lines": 1,
    }
    assert (other["rollout"], other["tokens_in"], other["is_incomplete"]) == ("b", None, True)


def test_show(folder: Path, capsys: Capsys) -> None:
    status, out = run(capsys, "show", str(folder), "a")
    head, *lines, warning = out.splitlines()
    assert status == 0
    assert " ".join(head.split()) == (
        "call dialect model status tokens in tokens out ms first ms end"
    )
    assert " ".join(lines[0].split()) == (
        "c1 chat m 200 100 20 1500.0 200.0 tool_calls length ls edit ls"
    )
    assert lines[1].split()[-3:] == ["max_output_tokens", "ls", "web_search_call"]
    assert lines[2].split() == ["c3", "chat", "m", "429", "-", "-", "1500.0", "-", "(rate_limit)"]
    assert warning == "damaged lines: 1"
    found = run_json(capsys, "show", str(folder), "a")
    assert found[0] == {
        "model_call_id": "c1",
        "dialect": "chat",
        "upstream": "local",
        "model": "m",
        "started_at": 10.0,
        "completed_at": 11.5,
        "status_code": 200,
        "error_category": None,
        "finish_reasons": ["tool_calls", "length"],
        "tokens_in": 100,
        "tokens_out": 20,
        "tokens_reasoning": 7,
        "tokens_cached": 64,
        "tool_calls": ["ls", "edit", "ls"],
        "latency_ms": 1500.0,
        "latency_ttft_ms": 200.0,
    }
    assert (found[3]["model"], found[3]["upstream"], found[3]["tokens_in"]) == (None, None, None)


def test_sum(folder: Path, capsys: Capsys) -> None:
    total = run_json(capsys, "sum", str(folder))
    assert total == {
        "rollouts": 2,
        "incomplete_rollouts": 1,
        "damaged_lines": 1,
        "calls": 5,
        "errors": {"rate_limit": 1},
        "finish_reasons": {"tool_calls": 1, "length": 1, "max_output_tokens": 1, "completed": 1},
        "models": {"m": 3, "n": 1},
        "tokens_in": 110,
        "tokens_out": 23,
        "tokens_reasoning": 8,
        "tokens_cached": 64,
        "tool_calls": {"ls": 3, "edit": 1, "web_search_call": 1},
        "latency_ms": {"mean": 1300.0, "p50": 1500.0, "p90": 1500.0, "max": 1500.0},
        "latency_ttft_ms": {"mean": 200.0, "p50": 200.0, "p90": 200.0, "max": 200.0},
        "started_at": 9.0,
        "completed_at": 20.0,
    }
    assert run_json(capsys, "sum", str(folder), "b")["calls"] == 0
    status, out = run(capsys, "sum", str(folder), "a")
    assert status == 0
    assert "tool calls" in out
    assert "ls 3, edit 1, web_search_call 1" in out
    assert "100" not in run(capsys, "sum", str(folder), "b")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["list", "."], 1, "no captures in ."),
        (["sum", "missing"], 2, "No such file or directory"),
        (["show", ".", "a"], 2, "no captures of the rollout 'a'"),
        (["export", ".", "fixtures", "a"], 2, "no captures of the rollout 'a'"),
    ],
)
def test_nothing_there(
    arguments: list[str],
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capsys,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["captures", *arguments]) == status
    assert words in capsys.readouterr().err


# --- export ------------------------------------------------------------------------------------


async def recorded(folder: Path, answer: Answer, request: JSON, **settings: JSON) -> None:
    async with capturing(folder, answer, **settings) as proxy:
        path = CHAT if "messages" in request else RESPONSES
        await ask(proxy.port, f"/ng-rollout/Task.1{path}", request)


@pytest.mark.server
@pytest.mark.parametrize(
    ("answer", "file"),
    [
        (Reply.json(chat_reply("Hi")), "response"),
        (streaming(*chat_stream(["H", "i"])), "stream"),
        (Reply.json({"error": {"message": "Slower."}}, 429), "error"),
        (Reply(200, {}, b"<html>"), "response"),
    ],
)
async def test_translated_call_becomes_a_whole_case(
    answer: Answer, file: str, tmp_path: Path, capsys: Capsys
) -> None:
    secret = "My key is sk-abcdefghijkl."
    request = responses_request(secret, stream=file == "stream")
    await recorded(tmp_path / "c", answer, request, upstream=True)
    assert cli.main(["captures", "export", str(tmp_path / "c"), str(tmp_path / "f")]) == 0
    case = tmp_path / "f" / "responses-chat" / "task-1-1"
    ending = "sse" if file == "stream" else "json"
    assert f"upstream.{file}.{ending}" in names(case)
    assert {"caller.request.json", "upstream.request.json", "case.toml"} <= names(case)
    goldens.check(corpus.load_case(case))
    assert b"sk-abc" not in b"".join(path.read_bytes() for path in case.iterdir())
    if file == "stream":
        assert (case / "upstream.stream.sse").read_bytes() == b"".join(chat_stream(["H", "i"]))
    capsys.readouterr()
    assert cli.main(["captures", "export", str(tmp_path / "c"), str(tmp_path / "f")]) == 2
    assert "is there already; --force replaces it" in capsys.readouterr().err
    arguments = [str(tmp_path / "c"), str(tmp_path / "f"), "Task.1", "--force"]
    assert cli.main(["captures", "export", *arguments, "--profile", "openai"]) == 0
    assert 'profile = "openai"' in (case / "case.toml").read_text()


@pytest.mark.server
@pytest.mark.parametrize("keeps", [True, False])
async def test_relayed_call_becomes_a_case_of_its_request(keeps: bool, tmp_path: Path) -> None:
    reply = Reply.json(chat_reply())
    await recorded(tmp_path / "c", reply, chat_request("Hi"), upstream=keeps)
    assert cli.main(["captures", "export", str(tmp_path / "c"), str(tmp_path / "f")]) == 0
    case = tmp_path / "f" / "chat-responses" / "task-1-1"
    assert names(case) == {"case.toml", "caller.request.json", "upstream.request.json"}
    goldens.check(corpus.load_case(case))


def test_export_of_one_call(tmp_path: Path) -> None:
    """What cannot be a case is passed over: requests that were not read, unknown dialects."""
    store = CaptureStore(tmp_path / "c")
    store.append("a", [record(request=None)])
    store.append("a", [record(dialect="messages", request={"model": "m"})])
    for name in ("c2", "c3"):
        store.append("b", [record(model_call_id=name, request=chat_request())])
    command = ["captures", "export", str(tmp_path / "c"), str(tmp_path / "f")]
    assert cli.main([*command, "a"]) == 1
    assert cli.main([*command, "--call", "c3"]) == 0
    assert names(tmp_path / "f" / "chat-responses") == {"b-2"}


def test_export_of_rollouts_whose_names_become_the_same(tmp_path: Path) -> None:
    store = CaptureStore(tmp_path / "c")
    for rollout in ("a.b", "a-b", "A_b", "c"):
        store.append(rollout, [record(request=chat_request(rollout))])
    command = ["captures", "export", str(tmp_path / "c"), str(tmp_path / "f")]
    assert cli.main(command) == 0
    cases = tmp_path / "f" / "chat-responses"
    assert len(names(cases)) == 4
    assert "c-1" in names(cases)
    sent = {(case / "caller.request.json").read_bytes() for case in cases.iterdir()}
    assert len(sent) == 4
    before = names(cases)
    assert cli.main([*command, "--force"]) == 0
    assert names(cases) == before
