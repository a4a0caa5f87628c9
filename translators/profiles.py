"""How upstreams want to be spoken to, and what the operator decided, as data."""

from enum import StrEnum

import msgspec


class SystemMessages(StrEnum):
    """What an upstream's chat template admits."""

    MERGE = "merge"
    """All system and developer text becomes one leading message; the order is kept."""
    MERGE_LEADING = "merge-leading"
    """Only the leading ones are merged; later ones stay where they are."""
    KEEP = "keep"
    """Any number, anywhere."""


class ReasoningHistory(StrEnum):
    """Which earlier reasoning goes back to the upstream."""

    ALL = "all"
    TOOL_TURNS = "tool-turns"
    """Only that of turns that called tools."""
    NONE = "none"


class ThinkTags(StrEnum):
    """Whether reasoning is to be split out of an upstream's text."""

    OFF = "off"
    TAGS = "tags"
    """A leading ``<think>`` block is reasoning."""
    OPENED = "opened"
    """The prompt ends with ``<think>``: all up to ``</think>`` is reasoning."""


class Render(StrEnum):
    """How a conversation becomes the prompt of a Completions upstream."""

    RAW = "raw"
    """The text of one user message, after that of at most one system message."""
    CHAT_TEMPLATE = "chat-template"
    """The upstream renders and tokenizes it, as for Chat."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts about one kind of upstream.

    Attributes:
        system_messages: How many system messages its template admits, and where.
        developer_role: Whether it knows the role ``developer``; else ``system`` is sent.
        reasoning_field: Member of an assistant message that carries earlier reasoning,
            ``None`` if it takes none.
        reasoning_history: Which earlier reasoning it should see.
        efforts: Reasoning efforts that it does not know -> those to send instead.
        thinking_switch: Member of ``chat_template_kwargs`` to set to false for effort ``none``.
        think_tags: Whether it leaves reasoning in the text.
        call_signatures: Whether it wants ``extra_content`` of earlier calls back.
        thought_signature: What stands for the signature of a turn's first call that has lost it,
            ``None`` if nothing does.
        render: How its Completions endpoint is given a conversation.
        token_limit_field: Chat member for the output limit.
        tool_images: Whether a tool message may hold image parts; else they follow in a user
            message.
        refusal_field: Whether an earlier refusal goes into the member ``refusal``; else the model
            would not see it, and it is sent as text.
        parses_arguments: Whether its template parses the arguments of earlier calls, and so refuses
            the whole request where a model wrote broken JSON; such arguments are wrapped.
        files: Whether it takes ``file`` parts.
        allowed_tools: Whether it knows ``tool_choice: allowed_tools``.
        custom_tools: Whether it knows custom (free text) tools.
        structured_outputs: Whether it knows vLLM's ``structured_outputs``, which bind an answer to
            a grammar; else a custom tool's grammar is told in its description only.
        empty_content: ``content`` of an assistant message that only calls tools: ``null`` or "".
        stream_usage: Whether it knows ``stream_options.include_usage``.
        refuses: Members that it answers with an error; they are left out and recorded as lost.
        sampling_extras: Whether its Responses endpoint takes Chat's sampling members
            (``stop``, ``seed``, ``logit_bias``, penalties).
        minimum_output_tokens: Smallest ``max_output_tokens`` its Responses endpoint takes.
    """

    system_messages: SystemMessages = SystemMessages.MERGE
    developer_role: bool = False
    reasoning_field: str | None = "reasoning"
    reasoning_history: ReasoningHistory = ReasoningHistory.ALL
    efforts: dict[str, str] = {}
    thinking_switch: str | None = None
    think_tags: ThinkTags = ThinkTags.OFF
    call_signatures: bool = False
    thought_signature: str | None = None
    render: Render = Render.RAW
    token_limit_field: str = "max_completion_tokens"
    tool_images: bool = False
    refusal_field: bool = False
    parses_arguments: bool = True
    files: bool = False
    allowed_tools: bool = False
    custom_tools: bool = False
    structured_outputs: bool = False
    empty_content: str | None = None
    stream_usage: bool = True
    refuses: tuple[str, ...] = ()
    sampling_extras: bool = True
    minimum_output_tokens: int = 1


PROFILES: dict[str, Profile] = {
    "vllm": Profile(thinking_switch="enable_thinking", structured_outputs=True),
    "openai": Profile(
        system_messages=SystemMessages.KEEP,
        developer_role=True,
        reasoning_field=None,
        refusal_field=True,
        parses_arguments=False,
        files=True,
        allowed_tools=True,
        custom_tools=True,
        sampling_extras=False,
        minimum_output_tokens=16,
    ),
    "deepseek": Profile(
        system_messages=SystemMessages.KEEP,
        reasoning_field="reasoning_content",
        token_limit_field="max_tokens",
    ),
    "ollama": Profile(
        system_messages=SystemMessages.KEEP,
        token_limit_field="max_tokens",
        efforts={"minimal": "low", "xhigh": "high", "max": "high"},
    ),
    "lmstudio": Profile(token_limit_field="max_tokens", reasoning_field="reasoning_content"),
    "llamacpp": Profile(
        token_limit_field="max_tokens", reasoning_field="reasoning_content", tool_images=True
    ),
    "sglang": Profile(reasoning_field="reasoning_content", thinking_switch="enable_thinking"),
    "compatible": Profile(token_limit_field="max_tokens", reasoning_field=None),
    "cerebras": Profile(
        refuses=(
            *("frequency_penalty", "presence_penalty", "logit_bias"),
            *("parallel_tool_calls", "service_tier"),
        ),
    ),
    "fireworks": Profile(
        token_limit_field="max_tokens",
        reasoning_field="reasoning_content",
        efforts={"minimal": "low", "xhigh": "high", "max": "high"},
    ),
    "gemini": Profile(token_limit_field="max_tokens", reasoning_field=None, call_signatures=True),
    "groq": Profile(refuses=("logit_bias", "logprobs", "top_logprobs")),
    "mistral": Profile(
        token_limit_field="max_tokens",
        reasoning_field=None,
        stream_usage=False,
        refuses=(
            *("logit_bias", "logprobs", "top_logprobs", "seed"),
            *("service_tier", "store", "user", "verbosity"),
        ),
    ),
    "openrouter": Profile(token_limit_field="max_tokens"),
    "together": Profile(
        token_limit_field="max_tokens",
        reasoning_field=None,
        efforts={"minimal": "low", "xhigh": "high", "max": "high"},
    ),
}
"""Profiles by the name that settings use; ``vllm`` is the default.

``compatible`` is for services that say no more of themselves than that they are.
"""


class ReasoningAs(StrEnum):
    """Where raw reasoning goes in a Responses reply."""

    SUMMARY = "summary"
    CONTENT = "content"
    BOTH = "both"


class ChatReasoning(StrEnum):
    """Which member carries reasoning in a Chat reply."""

    REASONING = "reasoning"
    REASONING_CONTENT = "reasoning_content"
    BOTH = "both"


class HostedTools(StrEnum):
    """What to do with tools that only the upstream itself could run."""

    REFUSE = "refuse"
    DROP = "drop"


class Orphans(StrEnum):
    """What to do with a tool call without an output, or an output without a call."""

    REPAIR = "repair"
    REFUSE = "refuse"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator decided about translations.

    Attributes:
        reasoning_as: Where raw reasoning goes in a Responses reply. ``summary`` is what all
            known clients show.
        chat_reasoning: Which member carries reasoning in a translated Chat reply.
        hosted_tools: Refuse hosted tools with an error, or drop them and record the loss.
        orphans: Repair a history in which a call or its output is missing, or refuse it.
    """

    reasoning_as: ReasoningAs = ReasoningAs.SUMMARY
    chat_reasoning: ChatReasoning = ChatReasoning.BOTH
    hosted_tools: HostedTools = HostedTools.REFUSE
    orphans: Orphans = Orphans.REPAIR
