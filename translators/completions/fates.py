"""What becomes of a Chat request's members on their way to a Completions upstream.

Those of a Responses request share the fate of the Chat members that mean the same.
Spec: Chat Completions, "Create chat completion"; Completions, "Create completion".
"""

from translators.fates import Fate, Row, Table

_EXACT = Row(Fate.EXACT)
_LOST = Row(Fate.LOST, "Completions has no such member")
_TEMPLATE = Row(Fate.EMULATED, "an argument of the template; lost for a raw prompt, recorded")

REQUEST: Table = {
    "audio": Row(Fate.REFUSED, "Completions gives text only"),
    "frequency_penalty": _EXACT,
    "function_call": Row(Fate.EMULATED, "tool_choice"),
    "functions": Row(Fate.EMULATED, "tools"),
    "logit_bias": _EXACT,
    "logprobs": Row(Fate.EMULATED, "the number of other tokens, which is top_logprobs or 0"),
    "max_completion_tokens": Row(Fate.EXACT, "max_tokens"),
    "max_tokens": _EXACT,
    "messages": Row(Fate.EMULATED, "the prompt; what is not text is refused"),
    "metadata": Row(Fate.KEPT, "nothing is stored that could be found by it"),
    "modalities": Row(Fate.REFUSED, "only text output can be translated"),
    "model": _EXACT,
    "moderation": Row(Fate.EXACT, "sent as it is"),
    "n": _EXACT,
    "parallel_tool_calls": Row(Fate.LOST, "if false: nobody counts the calls in a text"),
    "prediction": Row(Fate.LOST, "nothing is predicted; the answer is the same"),
    "presence_penalty": _EXACT,
    "prompt_cache_key": _LOST,
    "prompt_cache_options": _LOST,
    "prompt_cache_retention": _LOST,
    "reasoning_effort": _TEMPLATE,
    "response_format": Row(Fate.EXACT, "which vLLM knows in Completions too"),
    "safety_identifier": _LOST,
    "seed": _EXACT,
    "service_tier": _LOST,
    "stop": _EXACT,
    "store": Row(Fate.KEPT, "nothing is stored"),
    "stream": _EXACT,
    "stream_options": Row(Fate.EXACT, "include_usage; no obfuscation is ever added"),
    "temperature": _EXACT,
    "tool_choice": Row(Fate.KEPT, "refused where a tool has to be called"),
    "tools": Row(Fate.EMULATED, "told by the template; refused for a raw prompt"),
    "top_logprobs": Row(Fate.EXACT, "logprobs"),
    "top_p": _EXACT,
    "user": _EXACT,
    "verbosity": _LOST,
    "web_search_options": Row(Fate.POLICY, "a tool that the upstream cannot run"),
}
