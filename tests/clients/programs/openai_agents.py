"""openai-agents: ``openai_agents.py BASE_URL MODEL chat|responses``."""

# mypy: ignore-errors
# Its packages are not in the environment that is type-checked.

import asyncio
import json
import sys

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

base_url, model_name, api = sys.argv[1:]
kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
model = kind(model_name, AsyncOpenAI(base_url=base_url, max_retries=0))
QUESTION = "What is the weather in Oslo and in Lima?"


class Plan(BaseModel):
    city: str
    days: int


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: rain"


def told(result) -> dict:
    """Kinds of the items of a run, its answer, and what it used."""
    usage = result.context_wrapper.usage
    return {
        "items": [item.type for item in result.new_items],
        "answer": result.final_output,
        "requests": usage.requests,
        "tokens": [usage.input_tokens, usage.output_tokens],
    }


async def streamed(agent: Agent) -> dict:
    running = Runner.run_streamed(agent, QUESTION)
    text = ""
    async for event in running.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == running.final_output, "the deltas add up"
    return told(running)


async def main() -> None:
    counting = ModelSettings(include_usage=True)
    forecaster = Agent(
        "Forecaster",
        model=model,
        instructions="Be brief.",
        tools=[get_weather],
        model_settings=counting,
    )
    planner = Agent("Planner", model=model, output_type=Plan)
    desk = Agent("Desk", model=model, handoffs=[forecaster])
    plan = await Runner.run(planner, "Plan 3 days in Oslo")
    loop = await Runner.run(forecaster, QUESTION)
    again = [*loop.to_input_list(), {"role": "user", "content": "Hello again"}]
    found = {
        "loop": told(loop),
        "streamed": await streamed(forecaster),
        "plan": plan.final_output.model_dump(),
        "handoff": told(await Runner.run(desk, "Transfer me to the forecaster")),
        "follow_up": told(await Runner.run(forecaster, again)),
    }
    json.dump(found, sys.stdout)


asyncio.run(main())
