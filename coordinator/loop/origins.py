"""The model that an experiment begins with, where its file names one (`net.from`): found before the file is accepted,
and opened when the first round is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from coordinator.core.models import models_after, yielded_model
from coordinator.core.records import ModelOrigin
from coordinator.core.state import ENDED, ExperimentState, Model, Phase
from coordinator.work.blobs import Blobs
from coordinator.work.given_models import Arrays, GivenModels, MadeFor
from messages.experiment import DIGEST_MARK, Experiment
from messages.ground.errors import ConfigError, WorkFailed
from messages.tensors.layout import view_tensors


class ModelOrigins:
    """Searches what the operator put in, and what ended experiments have made.

    Args:
        states: every experiment's; asked for anew each time, read only.
    """

    def __init__(self, states: Callable[[], Mapping[str, ExperimentState]], blobs: Blobs, given: GivenModels) -> None:
        self._states, self._blobs, self._given = states, blobs, given

    def find_origin(self, experiment: Experiment, researcher: str) -> ModelOrigin | None:
        """The model that a file names; None where it names none.

        Raises:
            ConfigError: there is none, it is not this researcher's to use, or it is of another net.
        """
        named = experiment.net.origin
        if named is None:
            return None
        try:
            if named.startswith(DIGEST_MARK):
                origin, made = self._find_digest(named.removeprefix(DIGEST_MARK), experiment, researcher)
            else:
                origin, made = self._find_experiment(named, researcher)
            why = made.find_misfit(experiment)
        except ConfigError as error:
            why = error.what
        if why is not None:
            raise ConfigError(f"from = {named!r}: {why}", where="net")
        return origin

    def open_origin(self, origin: ModelOrigin) -> Arrays:
        """The model's tensors. Any thread.

        Raises:
            ConfigError, WorkFailed: it is gone, or not what it was.
        """
        if origin.experiment is None:
            return self._given.open_model(origin.digest)
        state = self._states().get(origin.experiment)
        if state is None or state.manifest is None or origin.seal is None:
            raise WorkFailed("the model to begin with is of an experiment that is gone", where=origin.experiment)
        try:
            buffer = self._blobs.open_blob(state.id, origin.seal, state.manifest)
        except (FileNotFoundError, ValueError):
            raise WorkFailed(
                "the model to begin with is gone, or not what it was",
                where=str(self._blobs.path_of(state.id, origin.seal)),
                advice="Put the file back from a backup",
            ) from None
        return view_tensors(state.manifest, buffer)

    def _find_digest(self, digest: str, experiment: Experiment, researcher: str) -> tuple[ModelOrigin, MadeFor]:
        metadata = self._given.read_metadata(digest)
        if metadata is not None:
            return ModelOrigin(digest=digest), MadeFor.of_metadata(metadata, experiment)
        for state in self._states().values():
            for rounds, model in _models_of(state, researcher):
                if model.digest == digest and self._blobs.has_blob(state.id, model.seal):
                    return _origin_of(state, rounds, model), MadeFor.of_experiment(state.experiment)
        raise ConfigError("no such model is here; the operator puts one in with `konsil coordinator put-model`")

    def _find_experiment(self, name: str, researcher: str) -> tuple[ModelOrigin, MadeFor]:
        state = self._states().get(name)
        if state is None:
            raise ConfigError("no experiment has this id")
        if state.phase not in ENDED:
            raise ConfigError(f"that experiment is {state.phase}: abort or finish it first")
        if state.phase is not Phase.COMPLETE and state.researcher != researcher:
            raise ConfigError("that experiment is another researcher's, and it is not complete")
        if state.experiment.plan.strategy.alters_tensors:
            name = state.experiment.plan.strategy.name
            raise ConfigError(f"that experiment ran with {name}: what travelled there is not the net alone")
        found = yielded_model(state)
        if found is None:
            raise ConfigError("that experiment has made no model")
        rounds, model = found
        if not self._blobs.has_blob(state.id, model.seal):
            raise ConfigError("that experiment's model is not kept any more")
        return _origin_of(state, rounds, model), MadeFor.of_experiment(state.experiment)


def _origin_of(state: ExperimentState, rounds: int, model: Model) -> ModelOrigin:
    return ModelOrigin(digest=model.digest, experiment=state.id, rounds=rounds, seal=model.seal)


def _models_of(state: ExperimentState, researcher: str) -> Iterator[tuple[int, Model]]:
    """Those of an experiment that a researcher may begin with: of another one's, only what it yields.

    None where more or less travelled than the net.
    """
    if state.experiment.plan.strategy.alters_tensors:
        return
    if state.phase is Phase.COMPLETE and (found := yielded_model(state)) is not None:
        yield found
    if state.researcher == researcher:
        for rounds in range(state.completed + 1):
            yield from ((rounds, model) for model in models_after(state, rounds))
