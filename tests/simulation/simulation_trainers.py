"""The scripted trainer of schedules: each update depends on the very model that its round began with, so that a round
that is lost, doubled or trained from another model shows in all that follows."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from scripted_trainers import Pause, Script, ScriptedTrainers, Seconds
from simulation_watch import Watch

from messages.ground.clock import Clock
from messages.tensors.layout import Manifest
from messages.tensors.seals import map_file
from nets.digest import model_digest
from site_agent.config import SiteConfig
from site_agent.trainers.base import OnExit, OnReply
from site_agent.training.protocol import Reply, Train


class WatchedScript(Script):
    """Tells the watch of each round that it trains."""

    watch: Watch
    _digest = ""

    def _remember_model(self, request: Train) -> str:
        return self._digest

    def _train_round(self, request: Train) -> None:
        assert self._prepare is not None
        manifest, path = Manifest.model_validate(request.manifest), Path(request.model)
        exact = manifest.codec == "float32"
        self._digest = (
            model_digest(manifest, map_file(path, manifest)) if exact else sha256(path.read_bytes()).hexdigest()
        )
        self.watch.note_training(self._prepare.site, request, self._digest)
        super()._train_round(request)


class WatchedTrainers(ScriptedTrainers):
    """See `ScriptedTrainers`."""

    def __init__(
        self,
        config: SiteConfig,
        on_reply: OnReply,
        on_exit: OnExit,
        clock: Clock,
        seconds: Seconds,
        cases: int,
        pause: Pause,
        watch: Watch,
    ) -> None:
        super().__init__(config, on_reply, on_exit, clock, seconds, cases, pause)
        self._watch = watch

    def _make_script(self, say: Callable[[Reply], None], lives: Callable[[], bool]) -> Script:
        made = WatchedScript(say, self._seconds, self._clock, self._cases, lives, memory=True)
        made.watch = self._watch
        return made


def write_durably(original: Callable[..., Any]) -> Callable[..., Any]:
    """Updates are made durable, as the trainer that comes with Konsil does; the null trainer need not."""

    def write(*given: Any, **more: Any) -> Any:
        return original(*given, **(more | {"durable": True}))

    return write
