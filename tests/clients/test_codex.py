"""``codex exec`` runs its real tools on the word of a model that speaks Chat Completions.

The tests are that model. What Codex offers depends on what it knows of the model's name:

==============  =================================================================
``some-model``  unknown to it: functions, and a namespace of functions
``gpt-5.5``     besides, the custom tool ``apply_patch``; the namespace is deferred
                and has to be found with ``tool_search``
``gpt-5.6-luna``  tools inside the input; a custom tool that takes JavaScript
==============  =================================================================
"""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.clients.harness import JSON, environment, proxying, run_program
from tests.extras import clients_env
from tests.upstream import Abort, Answer, ReceivedRequest, Reply, ScriptedUpstream, StreamReply

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # a first run installs the clients

UNKNOWN = "some-model"
PROOF = "dragoman-was-here"
COMMAND = f"printf {PROOF} > proof.txt"
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""A PNG of one pixel, in base64."""

CONFIG = """
model = "{model}"
model_provider = "proxy"
check_for_update_on_startup = false

[model_providers.proxy]
name = "Proxy"
base_url = "{url}"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
request_max_retries = 0
stream_max_retries = 0
supports_websockets = false

# What it would fetch from elsewhere, or send there.
[analytics]
enabled = false
[feedback]
enabled = false
[otel]
exporter = "none"
[features]
apps = false
plugins = false
remote_plugin = false
"""

Speak = Callable[[JSON], Answer]
"""A model: what it answers to a chat request."""


class Session(msgspec.Struct):
    """What came of one ``codex exec``: its events, and the chat requests that it caused."""

    events: list[JSON]
    chats: list[JSON]

    def items(self, kind: str) -> list[JSON]:
        """The completed items of a type."""
        done = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in done if item["type"] == kind]

    def tools(self) -> list[str]:
        """Names of the functions in the last request."""
        return [tool["function"]["name"] for tool in self.chats[-1]["tools"]]

    def results(self) -> list[str]:
        """Texts of the tool results in the last request."""
        return [m["content"] for m in self.chats[-1]["messages"] if m["role"] == "tool"]


class Codex:
    """Codex with a home and a working directory of its own."""

    def __init__(self, command: Path, folder: Path) -> None:
        self._command = command
        self._home = folder / "home"
        self.work = folder / "work"
        self._home.mkdir()
        self.work.mkdir()

    def exec(self, speak: Speak, model: str = UNKNOWN, *, status: int = 0) -> Session:
        """Give it a task; its exit status has to be ``status``."""
        return asyncio.run(self._exec(speak, model, status))

    async def _exec(self, speak: Speak, model: str, status: int) -> Session:
        def answer(request: ReceivedRequest) -> Answer:
            if request.path == "/v1/chat/completions":
                return speak(request.json)
            return Reply.json({"object": "list", "data": []})  # GET /models

        async with (
            ScriptedUpstream(handler=answer) as upstream,
            proxying(upstream.url, "--hosted-tools", "drop") as url,
        ):
            (self._home / "config.toml").write_text(CONFIG.format(model=model, url=url))
            unasked = ["--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check"]
            printed = await run_program(
                [self._command, "exec", "--json", "--ephemeral", *unasked, "Do your task."],
                cwd=self.work,
                env=environment(HOME=str(self._home), CODEX_HOME=str(self._home)),
                status=status,
            )
        events = [msgspec.json.decode(line) for line in printed.splitlines()]
        chats = [r.json for r in upstream.requests if r.path == "/v1/chat/completions"]
        return Session(events, chats)

    def proof(self) -> str:
        """What the file says that the model had it write."""
        return (self.work / "proof.txt").read_text().strip()


@pytest.fixture
def codex(node_clients: Path, tmp_path: Path) -> Codex:
    return Codex(clients_env.codex(node_clients), tmp_path)


def _stream(*deltas: JSON, finish_reason: str) -> StreamReply:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    first = {"role": "assistant", "content": ""}
    choices = [{"index": 0, "delta": d, "finish_reason": None} for d in (first, *deltas)]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish_reason})
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    chunks: list[JSON] = [{**head, "choices": [choice]} for choice in choices]
    return StreamReply.sse(*chunks, {**head, "choices": [], "usage": usage})


def _say(text: str) -> StreamReply:
    words = [{"content": f"{word} "} for word in text.split()]
    words[-1]["content"] = words[-1]["content"].rstrip()
    return _stream({"reasoning": "Nothing is left to do."}, *words, finish_reason="stop")


def _call(name: str, call_id: str = "call_1", **arguments: JSON) -> StreamReply:
    """A call as vLLM streams it: the name first, without arguments, then these in pieces."""
    text = msgspec.json.encode(arguments).decode()
    opening = {"id": call_id, "type": "function", "function": {"name": name}}
    pieces: list[JSON] = [{"function": {"arguments": part}} for part in (text[:9], text[9:])]
    deltas = [{"tool_calls": [{"index": 0, **piece}]} for piece in (opening, *pieces)]
    return _stream({"reasoning": "A tool can do it."}, *deltas, finish_reason="tool_calls")


def _results(chat: JSON) -> list[str]:
    return [m["content"] for m in chat["messages"] if m["role"] == "tool"]


def test_shell_command(codex: Codex) -> None:
    """A function call becomes a real command; its result and its reasoning go back with it."""

    def speak(chat: JSON) -> Answer:
        return _say("It is done.") if _results(chat) else _call("exec_command", cmd=COMMAND)

    session = codex.exec(speak)

    assert codex.proof() == PROOF
    assert [item["text"] for item in session.items("agent_message")] == ["It is done."]
    assert [item["exit_code"] for item in session.items("command_execution")] == [0]
    assert [item["text"] for item in session.items("reasoning")] == [
        "A tool can do it.",
        "Nothing is left to do.",
    ]
    assert session.events[-1]["type"] == "turn.completed"
    assert session.events[-1]["usage"]["output_tokens"] == 6
    turn, result = session.chats[-1]["messages"][-2:]
    assert turn["reasoning"] == "A tool can do it."
    assert turn["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert "exited with code 0" in result["content"]


def test_upstream_sees_one_system_message_and_functions_only(codex: Codex) -> None:
    session = codex.exec(lambda chat: _say("Hello."))

    roles = [message["role"] for message in session.chats[0]["messages"]]
    assert roles[0] == "system"
    assert set(roles[1:]) == {"user"}
    assert {tool["type"] for tool in session.chats[0]["tools"]} == {"function"}
    assert session.chats[0]["model"] == UNKNOWN


def test_functions_of_a_namespace(codex: Codex) -> None:
    """The model starts another agent and waits for it: calls into a namespace, and their results.

    That agent is the same model, told apart by its task.
    """

    def speak(chat: JSON) -> Answer:
        if any(message["content"] == "Greet me." for message in chat["messages"]):
            return _say("Hello from below.")
        match _results(chat):
            case []:
                return _call("multi_agent_v1__spawn_agent", message="Greet me.")
            case [spawned]:
                agent = msgspec.json.decode(spawned)["agent_id"]
                return _call("multi_agent_v1__wait_agent", "call_2", targets=[agent])
            case _:
                return _say("It is done.")

    session = codex.exec(speak)

    assert [item["tool"] for item in session.items("collab_tool_call")] == ["spawn_agent", "wait"]
    assert "Hello from below." in session.results()[1]
    assert session.items("agent_message")[-1]["text"] == "It is done."


def test_custom_tool(codex: Codex) -> None:
    """``apply_patch`` takes free text, which a Chat model can only give as an argument."""
    patch = f"*** Begin Patch\n*** Add File: proof.txt\n+{PROOF}\n*** End Patch\n"

    def speak(chat: JSON) -> Answer:
        return _say("It is done.") if _results(chat) else _call("apply_patch", input=patch)

    session = codex.exec(speak, "gpt-5.5")

    assert codex.proof() == PROOF
    assert [item["status"] for item in session.items("file_change")] == ["completed"]


def test_tools_found_by_search_can_be_called(codex: Codex) -> None:
    def speak(chat: JSON) -> Answer:
        match _results(chat):
            case []:
                return _call("tool_search", query="spawn agent")
            case [_]:
                return _call("multi_agent_v1__wait_agent", "call_2", targets=["nobody"])
            case _:
                return _say("It is done.")

    session = codex.exec(speak, "gpt-5.5")

    before = [tool["function"]["name"] for tool in session.chats[0]["tools"]]
    assert "tool_search" in before
    assert "multi_agent_v1__wait_agent" not in before
    assert "multi_agent_v1__wait_agent" in session.tools()
    assert "nobody" in session.results()[-1]


def test_image_that_a_tool_shows(codex: Codex) -> None:
    """``view_image`` gives an image. Tool messages hold text only, so a user message shows it."""
    (codex.work / "dot.png").write_bytes(base64.b64decode(DOT))

    def speak(chat: JSON) -> Answer:
        return _say("A dot.") if _results(chat) else _call("view_image", path="dot.png")

    session = codex.exec(speak)

    assert session.items("agent_message")[-1]["text"] == "A dot."
    call, result, shown = session.chats[-1]["messages"][-3:]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert shown["role"] == "user"
    images = [part["image_url"] for part in shown["content"] if part["type"] == "image_url"]
    assert [image["url"] for image in images] == [f"data:image/png;base64,{DOT}"]


def test_tools_in_the_input(codex: Codex) -> None:
    """Newer models get an ``additional_tools`` item, and write JavaScript that calls tools."""
    script = f'text((await tools.exec_command({{cmd: "{COMMAND}"}})).output)'

    def speak(chat: JSON) -> Answer:
        return _say("It is done.") if _results(chat) else _call("functions__exec", input=script)

    session = codex.exec(speak, "gpt-5.6-luna")

    assert codex.proof() == PROOF
    assert "Script completed" in session.results()[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("The knob may not be turned.", "The knob may not be turned."),
        ("This model's maximum context length is 8 tokens.", "ran out of room"),
    ],
    ids=["as-it-is", "overflow"],
)
def test_refusal_of_the_upstream_is_told(codex: Codex, words: str, told: str) -> None:
    """Once, since asking again would not help; Codex knows an overflow by its code."""
    refusal = {"message": words, "type": "BadRequestError", "param": None, "code": 400}

    session = codex.exec(lambda chat: Reply.json({"error": refusal}, 400), status=1)

    assert session.events[-1]["type"] == "turn.failed"
    assert told in session.events[-1]["error"]["message"]
    assert len(session.chats) == 1


def test_stream_that_breaks_off_is_no_success(codex: Codex) -> None:
    def speak(chat: JSON) -> Answer:
        whole = _say("Half of it is missing.").chunks
        assert isinstance(whole, list)
        return StreamReply([*whole[:3], Abort()])

    session = codex.exec(speak, status=1)

    assert session.events[-1]["type"] == "turn.failed"
    assert "disconnected before completion" in session.events[-1]["error"]["message"]
