"""LangChain's ChatOpenAI: ``langchain_chat_openai.py BASE_URL MODEL chat|responses``."""

# mypy: ignore-errors
# Its packages are not in the environment that is type-checked.

import json
import sys

from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

base_url, model_name, api = sys.argv[1:]
model = ChatOpenAI(
    base_url=base_url,
    model=model_name,
    use_responses_api=api == "responses",
    stream_usage=True,
    max_retries=0,
)
QUESTION = "What is the weather in Oslo and in Lima?"


class Plan(BaseModel):
    """A journey."""

    city: str
    days: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: rain"


def told(message) -> dict:
    reasoning = [block for block in message.content_blocks if block["type"] == "reasoning"]
    return {
        "text": message.text,
        "reasoning": "".join(block.get("reasoning", "") for block in reasoning),
        "calls": [[call["name"], call["args"]] for call in message.tool_calls],
        "tokens": [message.usage_metadata[side] for side in ("input_tokens", "output_tokens")],
    }


def invoke(runnable, messages):
    return runnable.invoke(messages)


def stream(runnable, messages) -> AIMessageChunk:
    whole = None
    for chunk in runnable.stream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


def tool_loop(ask) -> list[dict]:
    bound = model.bind_tools([get_weather])
    messages = [HumanMessage(QUESTION)]
    first = ask(bound, messages)
    messages.append(first)
    messages += [get_weather.invoke(call) for call in first.tool_calls]
    return [told(first), told(ask(bound, messages))]


def plan(**options) -> dict:
    return model.with_structured_output(Plan, **options).invoke("Plan 3 days in Oslo").model_dump()


found = {
    "text": told(model.invoke("Say it back, please")),
    "loop": tool_loop(invoke),
    "streamed": tool_loop(stream),
    "plan": plan(),
    "plan_by_tool": plan(method="function_calling"),
}
json.dump(found, sys.stdout)
