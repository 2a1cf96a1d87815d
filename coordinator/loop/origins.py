"""The model that an experiment begins with, where its file names one (`net.from`): found before the file is accepted,
and opened when the first round is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from coordinator.core.models import models_after, yielded_model
from coordinator.core.records import ModelOrigin
from coordinator.core.state import ENDED, ExperimentState, Model, Phase
from coordinator.work.blobs import Blobs
from coordinator.work.given_models import Arrays, GivenModels, MadeFor
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, WorkFailed
from messages.sections import DIGEST_MARK
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
            ConfigError: there is none, it is not this researcher's to use, or it is of another net; or what the file
                says of an experiment that it supersedes is not so.
        """
        self._check_superseded(experiment, researcher)
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

    def _check_superseded(self, experiment: Experiment, researcher: str) -> None:
        """Refuse a file that says of itself what is not so: the log has it on the coordinator's word."""
        told = experiment.supersedes
        if told is None:
            return
        state = self._states().get(told.experiment)
        why = None
        if state is None:
            why = "no experiment has this id"
        elif state.researcher != researcher:
            why = "that experiment is another researcher's"
        elif state.phase not in ENDED:
            why = f"that experiment is {state.phase}: abort or finish it first"
        elif told.model not in _digests_after(state, told.rounds):
            why = f"its {told.rounds} rounds made another model"
        elif told.after and experiment.net.origin not in _digests_after(state, told.after):
            why = f"net.from is not the model that its first {told.after} rounds made"
        elif differs := find_difference(state.experiment, experiment):
            why = f"{differs} is not as it is there"
        if why is not None:
            raise ConfigError(f"experiment = {told.experiment!r}: {why}", where="supersedes")

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


_MAY_DIFFER = frozenset({"id", "sites", "quorum", "supersedes", "purpose", "approval", "expires", "keep_updates"})


def find_difference(old: Experiment, new: Experiment) -> str | None:
    """The first key in which an experiment that is made anew differs from the old one, and must not; None where it
    differs only in its sites and in how many rounds are left."""
    there, here = (one.model_dump(mode="json", by_alias=True) for one in (old, new))
    rounds = new.rounds.count + new.rounds_before
    here["rounds"]["count"], here["net"]["from"] = rounds, old.net.origin if new.rounds_before else new.net.origin
    return next((key for key in there if key not in _MAY_DIFFER and there[key] != here.get(key)), None)


def _digests_after(state: ExperimentState, rounds: int) -> set[str]:
    return {DIGEST_MARK + model.digest for model in models_after(state, rounds)}


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
