"""What one exchange brings along: its clock, its ids, the upstream's profile and the losses."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Protocol

from translators.canonical import ToolName
from translators.envelope import rename_param
from translators.errors import Loss
from translators.names import ToolNames
from translators.profiles import Policy, Profile

_NO_TOOLS = ToolNames()


class Seal(Protocol):
    """Turns reasoning into blobs that only their issuer opens."""

    def seal(self, text: str) -> str:
        """A blob of the text."""

    def open(self, blob: str) -> str | None:
        """The text of a blob, ``None`` if it is not ours."""


class Context:
    """One request and its reply, on their way through the translators.

    Attributes:
        new_id: Makes an id from a prefix, such as ``resp`` -> ``resp_1``.
        now: Gives the Unix time in seconds.
        profile: How the upstream wants to be spoken to.
        policy: What the operator decided.
        seal: Seals reasoning; ``None`` where blobs can be neither made nor read.
        wants_sealed: Whether the caller asked for sealed reasoning.
        compacts: Whether the reply is to be a compaction of the conversation.
        losses: What the target dialect could not say, in order of discovery.
        caller_params: Canonical request members -> the caller's, where the names differ.
        tool_names: The request's tools under the names that the upstream sees.
        bound_tool: Custom tool whose input the reply's text is, as its grammar binds the text.
        plain_tools: Namespaces and names of tools whose calls have to say that nothing in them is
            encrypted.
        output_limit: Output tokens that the caller allows, if it set a limit.
        token_ids: Whether earlier turns go back with token ids; texts then stay to the letter.
        unasked: Members of a reply's choices that were asked for on account of token ids alone.
        top_logprobs: Log-probs of other tokens that the caller wants beside each token's own.
        wants_json: Whether the text is to be JSON.
        choices: Answers that the caller wants; an upstream's further ones are left aside.
        public_model: Model name to put into replies; ``None`` leaves the upstream's.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[str], str],
        now: Callable[[], float],
        profile: Profile,
        policy: Policy,
        public_model: str | None = None,
        seal: Seal | None = None,
    ) -> None:
        self.new_id = new_id
        self.now = now
        self.profile = profile
        self.policy = policy
        self.public_model = public_model
        self.seal = seal
        self.wants_sealed = False
        self.compacts = False
        self.losses: list[Loss] = []
        self.tool_names = _NO_TOOLS
        self.caller_params: Mapping[str, str] = {}
        self.bound_tool: ToolName | None = None
        self.plain_tools: set[tuple[str | None, str]] = set()
        self.output_limit: int | None = None
        self.token_ids = False
        self.unasked: frozenset[str] = frozenset()
        self.top_logprobs = 0
        self.wants_json = False
        self.choices = 1

    def lose(self, param: str, why: str) -> None:
        """Record that a member of the source body will not arrive.

        ``param`` is a path in the caller's body, or begins with a canonical member's name.
        """
        loss = Loss(rename_param(param, self.caller_params), why)
        if loss not in self.losses:
            self.losses.append(loss)


def counting_ids() -> Callable[[str], str]:
    """Ids that count per prefix (``msg_1``, ``msg_2``, ...), for tests and the command line."""
    counters: dict[str, count[int]] = {}

    def new_id(prefix: str) -> str:
        return f"{prefix}_{next(counters.setdefault(prefix, count(1)))}"

    return new_id
