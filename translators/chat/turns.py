"""Canonical items as Chat messages: neighbours become turns.

One assistant message holds its reasoning, its text and its tool calls; then come the results of
these calls. Upstreams refuse calls that are not followed by their results, so nothing is put
between the two.

Spec: Chat Completions, "messages".
"""

from collections.abc import Sequence

from translators.canonical import (
    ROLE_NAMES,
    Image,
    Item,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolKind,
    ToolResult,
)
from translators.chat.content import write_content
from translators.chat.freeform import wrap
from translators.chat.schema import SIGNED
from translators.context import Context
from translators.errors import UnsupportedFeature
from translators.names import ToolNames
from translators.profiles import ReasoningHistory
from translators.token_ids import MEMBERS as TOKEN_MEMBERS
from translators.token_ids import carried
from translators.wire import JSON


def write_messages(items: Sequence[Item], names: ToolNames, ctx: Context) -> list[JSON]:
    """``messages`` of a request.

    Reasoning belongs to the assistant message or the calls that follow it; only where none
    follows does it go to the one before.

    Raises:
        UnsupportedFeature: An item or part cannot be said in Chat.
    """
    turns = _Turns(names, ctx)
    for item in items:
        turns.add(item)
    turns.end_turn()
    turns.end_results()
    return turns.messages


class _Turns:
    """Messages so far, the assistant turn under way, and media of the results before it."""

    def __init__(self, names: ToolNames, ctx: Context) -> None:
        self.messages: list[JSON] = []
        self._names = names
        self._ctx = ctx
        self._reasoning: list[str] = []
        self._said: Message | None = None
        self._calls: list[JSON] = []
        self._media: list[Part] = []
        self._token_ids: dict[str, JSON] = {}

    def add(self, item: Item) -> None:
        """Take the next item."""
        if type(item) is ToolResult:
            self.end_turn()
            self._add_result(item)
            return
        if self._media:
            self.end_results()
        if type(item) is Message and item.role is not Role.ASSISTANT:
            self.end_turn()
            self._add_message(item)
            return
        if type(item) is Opaque:
            raise UnsupportedFeature(
                f"An item of type '{item.kind}' cannot be sent to a Chat Completions upstream.",
                param=item.param,
            )
        if type(item) is ToolCall:
            call = self._write_call(item)
            self._calls.append(call | self._signed(item) if item.extra else call)
        elif type(item) is Message:
            self._say(item)
        elif type(item) is Reasoning:
            self._add_reasoning(item)
        if item.extra:
            self._note_token_ids(item)

    def _add_reasoning(self, item: Reasoning) -> None:
        texts = item.content or item.summary
        if self._said is not None and not self._calls:
            self.end_turn()
        if texts:
            self._reasoning.append("\n".join(texts))
        elif item.encrypted is not None:
            self._ctx.lose("items", "encrypted reasoning of another issuer cannot be read")

    def _say(self, item: Message) -> None:
        if item.phase is not None:
            self._ctx.lose("items", "Chat has no phases of messages")
        if self._said is not None and not self._calls:
            self.end_turn()
        if self._said is None:
            self._said = item
        else:
            parts = [*self._said.parts, Text("\n\n"), *item.parts]
            self._said = Message(Role.ASSISTANT, parts, extra=self._said.extra | item.extra)

    def _note_token_ids(self, item: Item) -> None:
        """Keep a turn's token ids, which its last item carries."""
        found = carried(item)
        if found and self._ctx.token_ids:
            self._token_ids = found
        elif found:
            self._ctx.lose("items", "token ids go back only to models that are set to give them")

    def _write_call(self, call: ToolCall) -> JSON:
        name = self._names.flat(call.name, call.namespace)
        arguments = call.arguments
        if call.kind is ToolKind.CUSTOM:
            if self._ctx.profile.custom_tools:
                body: JSON = {"name": name, "input": arguments}
                return {"id": call.call_id, "type": "custom", "custom": body}
            arguments = wrap(arguments)
        function = {"name": name, "arguments": arguments}
        return {"id": call.call_id, "type": "function", "function": function}

    def _signed(self, call: ToolCall) -> dict[str, JSON]:
        """A call's signature, for the upstreams that want it back."""
        if SIGNED not in call.extra:
            return {}
        if self._ctx.profile.call_signatures:
            return {SIGNED: call.extra[SIGNED]}
        self._ctx.lose("items", f"the upstream takes no '{SIGNED}' of calls")
        return {}

    def _sign(self, first: dict[str, JSON]) -> None:
        """Give a turn's first call a signature, where it needs one and has none."""
        signature = self._ctx.profile.thought_signature
        if signature is not None and SIGNED not in first:
            self._ctx.lose("items", "the caller did not keep the signatures of earlier calls")
            first[SIGNED] = {"google": {"thought_signature": signature}}

    def end_turn(self) -> None:
        """Write the assistant turn under way, if there is one."""
        reasoning, said, calls = self._reasoning, self._said, self._calls
        token_ids, self._token_ids = self._token_ids, {}
        if said is None and not calls and not reasoning:
            return
        self._reasoning, self._said, self._calls = [], None, []
        if said is None and not calls:
            self._attach_backward(reasoning, token_ids)
            return
        message: dict[str, JSON] = {"role": "assistant", "content": self._ctx.profile.empty_content}
        if said is not None:
            self._set_content(message, said.parts, calls=bool(calls))
        if reasoning:
            self._set_reasoning(message, reasoning, calls=bool(calls))
        if calls:
            self._sign(calls[0])
            message["tool_calls"] = calls
        if said is not None:
            if said.name is not None:
                message["name"] = said.name
            if said.extra:
                known = message.keys() | TOKEN_MEMBERS
                message |= {k: v for k, v in said.extra.items() if k not in known}
        self.messages.append(message | token_ids)

    def _set_content(self, message: JSON, parts: Sequence[Part], *, calls: bool) -> None:
        if self._ctx.profile.refusal_field:
            refusals = [part.text for part in parts if isinstance(part, Refusal)]
            parts = [part for part in parts if not isinstance(part, Refusal)]
            if refusals:
                message["refusal"] = "".join(refusals)
                if not parts:
                    return
        content = write_content(parts, self._ctx, joint="")
        if content or not calls:
            message["content"] = content

    def _attach_backward(self, reasoning: list[str], token_ids: dict[str, JSON]) -> None:
        """Keep reasoning that no message follows, as of a reply that was cut while thinking."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant":
            last = {"role": "assistant", "content": ""}
            if self._set_reasoning(last, reasoning, calls=False):
                self.messages.append(last | token_ids)
        elif self._set_reasoning(last, reasoning, calls="tool_calls" in last):
            last.update(token_ids)

    def _set_reasoning(self, message: JSON, texts: list[str], *, calls: bool) -> bool:
        profile = self._ctx.profile
        if not texts:
            return False
        wanted = profile.reasoning_history is ReasoningHistory.ALL or (
            calls and profile.reasoning_history is ReasoningHistory.TOOL_TURNS
        )
        if profile.reasoning_field is None or not wanted:
            self._ctx.lose("items", "the upstream takes no earlier reasoning")
            return False
        before = message.get(profile.reasoning_field)
        joined = "\n".join(texts)
        message[profile.reasoning_field] = f"{before}\n{joined}" if before else joined
        return True

    def _add_result(self, result: ToolResult) -> None:
        parts = result.parts
        if Image in map(type, parts) and not self._ctx.profile.tool_images:
            media = [part for part in parts if type(part) is Image]
            label = Text(f"Images in the result of tool call {result.call_id}:")
            self._media += [label, *media]
            parts = [part for part in parts if type(part) is not Image] or [
                Text("The result is the images in the next user message.")
            ]
        content = write_content(parts, self._ctx)
        message = {"role": "tool", "tool_call_id": result.call_id, "content": content}
        self.messages.append(result.extra | message)

    def end_results(self) -> None:
        """Write the user message with the media of the results so far, if there are any."""
        if self._media:
            media, self._media = self._media, []
            self.messages.append({"role": "user", "content": write_content(media, self._ctx)})

    def _add_message(self, item: Message) -> None:
        content = write_content(item.parts, self._ctx)
        message: dict[str, JSON] = {"role": ROLE_NAMES[item.role], "content": content}
        if item.name is not None:
            message["name"] = item.name
        self.messages.append(item.extra | message)
