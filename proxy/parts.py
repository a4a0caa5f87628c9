"""What upstreams are made of that workers have in common: places at servers, and spawned vLLMs."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from backends.base import Backend
from backends.leftovers import state_folder
from backends.supervision import Supervision
from backends.turns import Count, FairTurns, Limit, OwnCount, Turns
from backends.vllm import VllmBackend
from backends.vllm_server import Connect
from proxy import settings as config
from proxy.tables import SettingsError


class Parts(Protocol):
    """Makes parts, which have the same keys in all processes."""

    def turns(self, key: str, name: str, limit: Limit) -> Turns:
        """The places at a server of the upstream ``name``."""

    def vllm(self, name: str, vllm: config.VLLM, connect: Connect) -> Backend:
        """The upstream ``name``, a vLLM that is spawned.

        Raises:
            SettingsError: An argument would make it unreachable.
        """


class OwnParts:
    """Parts of this process; it keeps them by their keys."""

    def __init__(self, count: Callable[[Limit], Count] = OwnCount) -> None:
        """Make none yet; ``count`` makes what counts the places at a server."""
        self.places: dict[str, FairTurns] = {}
        self.vllms: dict[str, VllmBackend] = {}
        self._count = count

    def turns(self, key: str, name: str, limit: Limit) -> Turns:
        """Places whose queue is here."""
        return self.places.setdefault(key, FairTurns(name, limit, self._count(limit)))

    def vllm(self, name: str, vllm: config.VLLM, connect: Connect) -> Backend:
        """A vLLM that is spawned here; see ``Parts``."""
        try:
            backend = VllmBackend(
                name=name,
                model=vllm.model,
                connect=connect,
                python=vllm.python,
                flags=vllm.flags,
                args=vllm.args,
                env=_environment(vllm),
                log_file=None if vllm.log_file is None else Path(vllm.log_file).expanduser(),
                supervision=_supervision(vllm),
                leftovers=state_folder(),
                stall_s=vllm.stall_timeout_s,
            )
        except ValueError as error:
            raise SettingsError(f"upstreams.{name}.vllm: {error}") from error
        return self.vllms.setdefault(name, backend)


def _environment(vllm: config.VLLM) -> dict[str, str]:
    if vllm.hf_home is None:
        return vllm.env
    return {"HF_HOME": str(Path(vllm.hf_home).expanduser()), **vllm.env}


def _supervision(vllm: config.VLLM) -> Supervision:
    return Supervision(
        health_interval_s=vllm.health_interval_s,
        health_failures=vllm.health_failures,
        stall_s=vllm.engine_stall_timeout_s,
        stall_answer_s=vllm.engine_answer_timeout_s,
        restart=vllm.restart,
        backoff_s=vllm.restart_backoff_s,
        backoff_cap_s=vllm.restart_backoff_cap_s,
        wait_s=vllm.restart_wait_s,
    )
