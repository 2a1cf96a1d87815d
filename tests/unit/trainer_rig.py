"""A training process over its socket, and a small data set: for tests of the process."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.demo.experiments import glioma_demo
from deploy.demo.phantoms import phantom
from messages.experiment import Experiment
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import Prepare, Progress, Reply, Written

SECONDS = 240


class Trainer:
    """A training process and its replies.

    Args:
        program: in place of the one that comes with Konsil. log: where its words go.
    """

    def __init__(self, program: Sequence[str] | None = None, log: Path | None = None) -> None:
        self.replies: queue.Queue[Reply] = queue.Queue()
        self.statuses: queue.Queue[int] = queue.Queue()
        self.process = TrainerProcess(self.replies.put, self.statuses.put, program=program, log=log)

    def ask(self, request: Any) -> Any:
        """Send, and wait for the answer; progress is passed over."""
        self.process.send_request(request)
        deadline = time.monotonic() + SECONDS
        while True:
            reply = self.replies.get(timeout=max(0.0, deadline - time.monotonic()))
            if not isinstance(reply, Progress | Written):
                return reply


def experiment(**optimizer: Any) -> Experiment:
    plain = glioma_demo(3, 1, ["site-a"])
    plain["net"] |= {"channels": [4, 8], "strides": [2]}
    plain["training"] |= {"patch": [16, 16, 16], "patches_per_case": 1}
    plain["training"]["optimizer"] |= optimizer
    return Experiment.model_validate(plain)


def preparation(folder: Path, chosen: Experiment, cache: str = "cache") -> Prepare:
    dataset = {
        "source": "brats",
        "path": str(folder / "data"),
        "labels": {str(integer): concept for integer, concept in phantom.site_labels(0).items()},
        "patient_id": phantom.PATIENT_ID,
    }
    return Prepare(
        experiment=chosen.as_plain(),
        dataset=dataset,
        site="site-a",
        secret=b"secret",
        threads=1,
        cache=str(folder / cache),
    )


def write_data(folder: Path) -> None:
    """Eight phantoms in `folder`/data."""
    phantom.write_site(folder / "data", site_index=0, cases=8, seed=3, shape=(24, 24, 24), spacing_mm=(7, 7, 7))
