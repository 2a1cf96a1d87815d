"""`python -m deploy.privacy.membership`: a model's losses on the site's patients, and those of shadow models.

Nothing leaves the machine. Preprocessed cases lie under the state folder, and are removed at the end. Of each finished
shadow model its losses stay there, until the test is through: by a digest of the case, without a name.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.privacy.apart import Tell, serve_request
from deploy.privacy.likelihood import choose_variant, draw_halves, rate_confidence, score_patients
from deploy.privacy.ranking import Separation, separate
from deploy.privacy.shadows import ShadowTrainer
from messages import codec
from messages.ground.errors import RequestError
from nets.export import load_model
from site_agent.training.cases.cache import CachedCase
from site_agent.training.protocol import Prepare, Progress
from site_agent.training.session import TrainingSession
from site_agent.training.tasks.base import Learner, answer_image, predict_logits

LEAST_PATIENTS = 5
"""On either side: with fewer an interval says nothing."""


class TestedPatients:
    """The patients of two splits, members first, with the cases of each.

    Attributes:
        cases: of each patient. members: how many of them the model was trained on.
        digest: names exactly these patients with exactly these cases.

    Raises:
        RequestError: too few on either side.
    """

    def __init__(self, session: TrainingSession) -> None:
        self.cases: list[list[CachedCase]] = []
        digests: list[list[str]] = []
        sizes = {}
        used = iter(session.prepared.cases)  # in the order of the splits
        told = {split: [next(used) for _case in cases] for split, cases in session.splits.items()}
        for split in ("train", "test"):
            of_patient: dict[str, list[int]] = defaultdict(list)
            for index, one in enumerate(told[split]):
                of_patient[one.patient].append(index)
            sizes[split] = len(of_patient)
            for indices in of_patient.values():
                self.cases.append([session.splits[split][index] for index in indices])
                digests.append([told[split][index].digest for index in indices])
        if min(sizes.values()) < LEAST_PATIENTS:
            what = f"{sizes['train']} patients trained on and {sizes['test']} in the test split"
            advice = (
                f"The test takes {LEAST_PATIENTS} on either side: more cases, or an experiment with a larger test split"
            )
            raise RequestError(f"too few patients: {what}", where=session.experiment.data.dataset, advice=advice)
        self.members = sizes["train"]
        self.digest = sha256(codec.pack(digests)).hexdigest()


@torch.inference_mode()
def measure_loss(net: torch.nn.Module, case: CachedCase, learner: Learner, device: torch.device) -> float:
    """A model's loss on one whole case, as training has it, without augmentation."""
    image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))
    if case.truth.size:
        logits, truth = answer_image(net, image, learner.asked, device)[None], torch.from_numpy(case.truth.copy())[None]
    else:
        logits = predict_logits(net, image, learner.asked, device)
        truth = torch.from_numpy(np.array(case.label))[None]
    return float(learner.loss(logits, truth.to(device)))


def measure_losses(
    net: torch.nn.Module, patients: Sequence[Sequence[CachedCase]], session: TrainingSession, tell: Tell, what: str
) -> NDArray[np.float64]:
    """The mean loss on each patient's cases, (patients,)."""
    net.eval()
    found = np.zeros(len(patients))
    for index, cases in enumerate(patients):
        tell(f"{what}: patient {index + 1} of {len(patients)}")
        found[index] = np.mean([measure_loss(net, case, session.learner, session.device) for case in cases])
    return found


def probe_model(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """All of the test, as plain figures.

    Args:
        request: `model`, `own`, `shadows`, `folder` (for what is kept), and `prepare` (a `Prepare` as plain data, its
            secret in hex).
    """
    folder = Path(request["folder"])
    prepare = Prepare(**{**request["prepare"], "secret": bytes.fromhex(request["prepare"]["secret"])})
    cases = Path(prepare.cache)
    own = None if request["own"] is None else Path(request["own"])
    net = load_model(Path(request["model"]), own)[0]
    try:
        session = TrainingSession(prepare, partial(_tell_reading, tell))
        patients = TestedPatients(session)
        losses = measure_losses(net.to(session.device), patients.cases, session, tell, "the model's losses")
        result = {"loss": _describe(separate(*_part(-losses, patients.members)))}
        if count := request["shadows"]:
            trainer = ShadowTrainer(session, folder, prepare.secret)
            scores = _attack_with_shadows(count, trainer, folder, session, patients, losses, tell)
            result["lira"] = {
                **_describe(separate(*_part(scores, patients.members))),
                "shadows": count,
                "variant": choose_variant(count),
            }
    finally:
        shutil.rmtree(cases, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _tell_reading(tell: Tell, said: object) -> None:
    if isinstance(said, Progress):
        tell(f"reading cases: {said.done} of {said.total}")


def _attack_with_shadows(
    count: int,
    trainer: ShadowTrainer,
    folder: Path,
    session: TrainingSession,
    patients: TestedPatients,
    losses: NDArray[np.float64],
    tell: Tell,
) -> NDArray[np.float64]:
    halves = draw_halves(len(patients.cases), count, session.experiment.seed)
    rows = []
    for number, inside in enumerate(halves, start=1):
        name = f"shadow-{number}-{patients.digest[:16]}"
        kept = folder / f"{name}.json"
        if not kept.exists():
            what = f"shadow model {number} of {count}"
            chosen = [cases for cases, taken in zip(patients.cases, inside, strict=True) if taken]
            net = trainer.train(name, chosen, tell, what)
            found = measure_losses(net, patients.cases, session, tell, f"{what}: its losses")
            trainer.keep_losses(kept, found.tolist())
        rows.append(json.loads(kept.read_text()))
    return score_patients(rate_confidence(losses), rate_confidence(np.array(rows)), halves)


def _part(scores: NDArray[np.float64], members: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return scores[:members], scores[members:]


def _describe(found: Separation) -> dict[str, Any]:
    return {
        "auc": found.auc.value,
        "auc_interval": [found.auc.low, found.auc.high],
        "found": found.found.value,
        "found_interval": [found.found.low, found.found.high],
        "members": found.members,
        "others": found.others,
    }


if __name__ == "__main__":
    raise SystemExit(serve_request(probe_model))
