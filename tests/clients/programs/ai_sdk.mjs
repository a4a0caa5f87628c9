// The AI SDK: `node ai_sdk.mjs BASE_URL MODEL responses|chat|compatible`.

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;

const [baseURL, name, api] = process.argv.slice(2);
const provider =
  api === 'compatible'
    ? createOpenAICompatible({
        name: 'dragoman',
        baseURL,
        apiKey: 'unused',
        includeUsage: true,
        supportsStructuredOutputs: true,
      })
    : createOpenAI({ baseURL, apiKey: 'unused' });
const model = api === 'compatible' ? provider(name) : provider[api](name);

// Unless told that nothing is stored, it refers to earlier items of Responses by their ids; then it
// keeps only reasoning that came encrypted.
const unstored = { openai: { store: false, include: ['reasoning.encrypted_content'] } };

const get_weather = tool({
  description: 'The weather in a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `${city}: rain`,
});
const asked = { role: 'user', content: 'What is the weather in Oslo and in Lima?' };
const forecast = {
  model,
  system: 'Be brief.',
  messages: [asked],
  tools: { get_weather },
  stopWhen: stepCountIs(3),
  maxRetries: 0,
  providerOptions: unstored,
};
const plan = z.object({ city: z.string(), days: z.number().int() });
const planning = { model, prompt: 'Plan 3 days in Oslo', maxRetries: 0 };

function told(steps, text, usage) {
  return {
    text,
    tokens: [usage.inputTokens, usage.outputTokens],
    steps: steps.map((step) => ({
      reasoning: step.reasoningText ?? '',
      calls: step.toolCalls.map((call) => [call.toolName, call.input]),
      results: step.toolResults.map((result) => result.output),
      finish: step.finishReason,
    })),
  };
}

async function generate(options) {
  const result = await generateText({ ...forecast, ...options });
  return told(result.steps, result.text, result.totalUsage);
}

async function stream() {
  const result = streamText({ ...forecast, onError: () => {} });
  let text = '';
  let reasoning = '';
  for await (const part of result.fullStream) {
    if (part.type === 'text-delta') text += part.text;
    if (part.type === 'reasoning-delta') reasoning += part.text;
    if (part.type === 'error') throw part.error;
  }
  const whole = told(await result.steps, text, await result.totalUsage);
  if (whole.steps.map((step) => step.reasoning).join('') !== reasoning)
    throw new Error('the deltas do not add up');
  return whole;
}

async function followUp() {
  const { response } = await generateText(forecast);
  const messages = [asked, ...response.messages, { role: 'user', content: 'Hello again' }];
  return generate({ messages });
}

const { object } = await generateObject({ ...planning, schema: plan });
const { output } = await generateText({ ...planning, output: Output.object({ schema: plan }) });
const found = {
  loop: await generate({}),
  streamed: await stream(),
  follow_up: await followUp(),
  by_reference: await generate({ providerOptions: {} }).catch((error) => error.message),
  object,
  output,
};
process.stdout.write(JSON.stringify(found));
