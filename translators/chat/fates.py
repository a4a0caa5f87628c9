"""What becomes of everything that Chat can say, towards an upstream of another dialect.

Spec: Chat Completions, "Create chat completion", "The chat completion object".
"""

from translators.fates import Fate, Row, Table

_EXACT = Row(Fate.EXACT)
_BY_PROFILE = Row(Fate.EXACT, "where the upstream's profile takes it, else lost, recorded")

REQUEST: Table = {
    "audio": Row(Fate.REFUSED, "audio output cannot be said in Responses"),
    "frequency_penalty": _BY_PROFILE,
    "function_call": Row(Fate.EMULATED, "tool_choice"),
    "functions": Row(Fate.EMULATED, "tools"),
    "logit_bias": _BY_PROFILE,
    "logprobs": _EXACT,
    "max_completion_tokens": Row(Fate.EXACT, "raised to the profile's minimum, recorded"),
    "max_tokens": Row(Fate.EXACT, "the same as max_completion_tokens"),
    "messages": _EXACT,
    "metadata": _EXACT,
    "modalities": Row(Fate.REFUSED, "only text output can be translated"),
    "model": _EXACT,
    "moderation": Row(Fate.EXACT, "sent as it is"),
    "n": Row(Fate.REFUSED, "a Responses upstream gives one choice only"),
    "parallel_tool_calls": _EXACT,
    "prediction": Row(Fate.LOST, "nothing is predicted; the answer is the same"),
    "presence_penalty": _BY_PROFILE,
    "prompt_cache_key": _EXACT,
    "prompt_cache_options": _EXACT,
    "prompt_cache_retention": _EXACT,
    "reasoning_effort": _EXACT,
    "response_format": _EXACT,
    "safety_identifier": _EXACT,
    "seed": _BY_PROFILE,
    "service_tier": _EXACT,
    "stop": Row(Fate.EXACT, "where the upstream's profile takes it, else refused"),
    "store": Row(Fate.EXACT, "false if left out, since Responses would store"),
    "stream": _EXACT,
    "stream_options": Row(Fate.EXACT, "include_usage; no obfuscation is ever added"),
    "temperature": _EXACT,
    "tool_choice": _EXACT,
    "tools": _EXACT,
    "top_logprobs": _EXACT,
    "top_p": _EXACT,
    "user": _EXACT,
    "verbosity": _EXACT,
    "web_search_options": Row(Fate.EMULATED, "the tool web_search"),
}

MESSAGES: Table = {
    "assistant": Row(Fate.EXACT, "reasoning, text, refusal and calls; earlier audio is refused"),
    "developer": _EXACT,
    "function": Row(Fate.EMULATED, "the result of the call before it"),
    "system": _EXACT,
    "tool": _EXACT,
    "user": Row(Fate.EXACT, "a name is lost, recorded"),
}

PARTS: Table = {
    "file": _EXACT,
    "image_url": _EXACT,
    "input_audio": Row(Fate.EXACT, "for upstreams that take it; OpenAI does not"),
    "refusal": _EXACT,
    "text": _EXACT,
}

TOOLS: Table = {"custom": _EXACT, "function": Row(Fate.EXACT, "strict is false if left out")}

CHOICES: Table = {
    "allowed_tools": _EXACT,
    "auto": _EXACT,
    "custom": _EXACT,
    "function": _EXACT,
    "none": _EXACT,
    "required": _EXACT,
}

MESSAGE: Table = {
    "annotations": _EXACT,
    "audio": Row(Fate.LOST, "Responses has no audio output"),
    "content": _EXACT,
    "function_call": Row(Fate.EMULATED, "a function_call item"),
    "refusal": _EXACT,
    "role": _EXACT,
    "tool_calls": _EXACT,
}
"""Members of a Chat upstream's reply message, towards a caller of another dialect."""
