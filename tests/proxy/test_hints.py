"""Refusals that the caller is told the remedy for."""

from collections.abc import Mapping

import pytest

from backends.vllm import VllmBackend
from proxy.hints import with_hint
from tests.backends.managed_vllm import Inner
from tests.proxy.caller import ask
from tests.proxy.conftest import RunProxy
from tests.proxy.dialects import RESPONSES, responses_request
from tests.proxy.test_streams import using
from tests.upstream import Reply, ScriptedUpstream
from translators.errors import ErrorInfo

WORDS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


@pytest.mark.server
async def test_a_vllm_without_a_tool_parser(running_proxy: RunProxy) -> None:
    refusal = {"message": WORDS, "type": "BadRequestError", "param": None, "code": 400}
    async with ScriptedUpstream(Reply.json({"error": refusal}, 400)) as upstream:
        proxy = await running_proxy(using(upstream, "chat"))
        answer = await ask(proxy.port, RESPONSES, responses_request())
    assert answer.status == 400
    assert answer.error == {
        "message": "The upstream 'default' cannot call tools as it was started; restart it with"
        f" --enable-auto-tool-choice and --tool-call-parser NAME. It says: {WORDS}",
        "type": "invalid_request_error",
        "param": "tools",
        "code": None,
    }


def test_of_a_spawned_one_the_settings_are_named() -> None:
    backend = VllmBackend(name="local", model="m", connect=Inner)
    hinted = with_hint(ErrorInfo(WORDS, 400), backend)
    assert (
        'set enable_auto_tool_choice = true and tool_call_parser = "NAME" in [upstreams.local.vllm]'
        in hinted.message
    )


@pytest.mark.parametrize("error", [{"message": "bad", "status": 400}, {"message": WORDS}])
def test_other_errors_stay_as_they_are(error: Mapping[str, str]) -> None:
    info = ErrorInfo(**error)  # type: ignore[arg-type]
    assert with_hint(info, VllmBackend(name="local", model="m", connect=Inner)) is info
