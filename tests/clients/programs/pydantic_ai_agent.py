"""pydantic-ai: ``pydantic_ai_agent.py BASE_URL MODEL chat|responses``."""

# mypy: ignore-errors
# Its packages are not in the environment that is type-checked.

import asyncio
import json
import sys

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

base_url, model_name, api = sys.argv[1:]
kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
client = AsyncOpenAI(base_url=base_url, max_retries=0)
model = kind(model_name, provider=OpenAIProvider(openai_client=client))
QUESTION = "What is the weather in Oslo and in Lima?"


class Plan(BaseModel):
    city: str
    days: int


# A model that it does not know gets its earlier thoughts as text, unless told otherwise.
settings = {"openai_send_reasoning_ids": True} if api == "responses" else None
forecaster = Agent(model, instructions="Be brief.", model_settings=settings)


@forecaster.tool_plain
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: rain"


def told(result, answer: str) -> dict:
    """The answer, and all parts that the model gave, in their order."""
    replies = [message for message in result.all_messages() if isinstance(message, ModelResponse)]
    parts = [part for reply in replies for part in reply.parts]
    usage = result.usage
    return {
        "answer": answer,
        "parts": [part.part_kind for part in parts],
        "thoughts": [part.content for part in parts if part.part_kind == "thinking"],
        "tokens": [usage.input_tokens, usage.output_tokens],
    }


async def streamed() -> dict:
    async with forecaster.run_stream(QUESTION) as running:
        text = "".join([delta async for delta in running.stream_text(delta=True)])
        output = await running.get_output()
        assert text == output, "the deltas add up"
        return told(running, output)


async def main() -> None:
    by_tool = Agent(model, output_type=Plan)
    native = Agent(model, output_type=NativeOutput(Plan))
    first = await forecaster.run(QUESTION)
    again = await forecaster.run("Hello again", message_history=first.all_messages())
    found = {
        "loop": told(first, first.output),
        "streamed": await streamed(),
        "plan_by_tool": (await by_tool.run("Plan 3 days in Oslo")).output.model_dump(),
        "plan": (await native.run("Plan 3 days in Oslo")).output.model_dump(),
        "follow_up": told(again, again.output),
    }
    json.dump(found, sys.stdout)


asyncio.run(main())
