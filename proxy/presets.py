"""Known providers and servers, as rows of data.

Read in November 2026 in the providers' own documentation or SDKs; what those do not say is not
here. Keys are taken from the environment variables that the providers' examples use (DeepInfra's
do not name one, so its is the one that its clients share).
"""

from collections.abc import Mapping
from typing import NamedTuple

from translators.wire import JSON

_KINDS = ("url", "urls", "azure", "vllm", "demo")


class Preset(NamedTuple):
    """One provider or server.

    Attributes:
        url: API root.
        key_env: Environment variable that holds the key by convention, ``None`` if none is needed.
        profile: How it wants to be spoken to.
        speaks: What it speaks.
    """

    url: str
    key_env: str | None
    profile: str
    speaks: str = "chat"


PRESETS: Mapping[str, Preset] = {
    "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY", "openai", "both"),
    "baseten": Preset("https://inference.baseten.co/v1", "BASETEN_API_KEY", "compatible"),
    "cerebras": Preset("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", "cerebras"),
    "deepinfra": Preset("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", "compatible"),
    "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek"),
    "fireworks": Preset("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "fireworks"),
    "friendli": Preset("https://api.friendli.ai/serverless/v1", "FRIENDLI_TOKEN", "compatible"),
    "gemini": Preset(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini"
    ),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY", "groq"),
    "huggingface": Preset("https://router.huggingface.co/v1", "HF_TOKEN", "compatible"),
    "mistral": Preset("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral"),
    "nebius": Preset("https://api.tokenfactory.nebius.com/v1", "NEBIUS_API_KEY", "compatible"),
    "nvidia": Preset("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", "compatible"),
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter"),
    "together": Preset("https://api.together.ai/v1", "TOGETHER_API_KEY", "together"),
    "vllm": Preset("http://127.0.0.1:8000/v1", None, "vllm"),
    "sglang": Preset("http://127.0.0.1:30000/v1", None, "sglang"),
    "ollama": Preset("http://127.0.0.1:11434/v1", None, "ollama"),
    "lmstudio": Preset("http://127.0.0.1:1234/v1", None, "lmstudio"),
    "llamacpp": Preset("http://127.0.0.1:8080/v1", None, "llamacpp"),
}
"""By the name that settings use: hosted ones first, then those on the same machine."""


def complete(upstream: JSON, environment: Mapping[str, str]) -> JSON:
    """An upstream's table with what its preset says where the table is silent.

    The conventional variable is taken if it is set; else the caller's key passes. A table that is
    wrong, or names no known preset, stays as it is, and is refused where settings are checked.
    """
    if not isinstance(upstream, dict):
        return upstream
    if "azure" in upstream:
        return {"profile": "openai", **upstream}
    name = upstream.get("preset")
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return upstream
    known: dict[str, JSON] = {"profile": preset.profile, "speaks": preset.speaks}
    if not any(kind in upstream for kind in _KINDS):
        known["url"] = preset.url
    if "key" not in upstream and preset.key_env and environment.get(preset.key_env):
        known["key_env"] = preset.key_env
    return {**known, **upstream}
