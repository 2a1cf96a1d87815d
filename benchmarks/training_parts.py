"""What `benchmarks.training_loop` does in processes of its own, for torch: cases out, the step in parts."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training_sides import SITE, experiment_of, preparation
from messages.tensors.layout import Manifest, view_tensors


def export(folder: Path, options: argparse.Namespace) -> None:
    """In a process of its own: hand the plain loop cases and start, and time the parts of Konsil's step."""
    from safetensors.numpy import save_file

    from nets.initial import initial_model
    from site_agent.training.session import TrainingSession

    experiment = experiment_of(options)
    manifest, buffer = initial_model(experiment)
    (folder / "start").write_bytes(buffer)
    (folder / "manifest.json").write_text(json.dumps(manifest.plain()))
    save_file(
        {name: array.copy() for name, array in view_tensors(manifest, buffer).items()}, folder / "start.safetensors"
    )
    session = TrainingSession(preparation(folder, experiment, options.threads), lambda _: None)
    cases = session.splits["train"]
    for index, case in enumerate(cases):
        np.save(folder / f"{index}-image.npy", np.asarray(case.image, dtype=np.float32))
        np.save(folder / f"{index}-label.npy", np.asarray(case.label))
        np.save(folder / f"{index}-foreground.npy", np.asarray(case.foreground))
        smallest = min(case.label.shape)
        assert smallest >= options.patch, f"a case of {smallest} voxels is smaller than the patch"
    spec = experiment.net.parameters
    net = {key: spec[key] for key in ("channels", "strides", "num_res_units", "norm")}
    net |= {"in_channels": len(experiment.task.channels), "out_channels": experiment.task.out_channels}
    described = {"threads": options.threads, "cases": len(cases), "net": net}
    (folder / "plain.json").write_text(json.dumps(described))


def parts(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """In a process of its own: milliseconds of each part of Konsil's step, and of a round's beginning and end."""
    import torch

    from nets.weights import arrays_of
    from site_agent.training.__main__ import _keep_freed_memory
    from site_agent.training.cases.sampling import Sampler
    from site_agent.training.engine import train_round
    from site_agent.training.files import write_update
    from site_agent.training.seeds import derive_seed
    from site_agent.training.session import TrainingSession
    from site_agent.training.tasks.segmentation import SegmentationLearner

    _keep_freed_memory()
    experiment = experiment_of(options, local_epochs=None, local_steps=100)
    manifest = Manifest.model_validate(json.loads((folder / "manifest.json").read_text()))
    session = TrainingSession(preparation(folder, experiment, options.threads), lambda _: None)
    net, cases, learner = session._net, session.splits["train"], session.learner
    assert isinstance(learner, SegmentationLearner)
    seed = derive_seed(experiment.seed, "round", 1, "site", SITE)
    sampler = Sampler(cases, experiment.training, experiment.augmentation, seed)
    _, labels = sampler.draw_step(0)[0]

    def timed(work: Any, times: int) -> float:
        work(0)
        began = time.perf_counter()
        for index in range(times):
            work(index)
        return 1000 * (time.perf_counter() - began) / times

    def whole(_: int) -> None:
        train_round(
            net, cases, experiment, session.learner,
            round_number=1, site=SITE, device=torch.device("cpu"),
        )  # fmt: skip

    update = folder / "parts-update"
    received, _kept = session._load_model(str(folder / "start"), manifest.plain(), 1)
    return {
        "step": timed(whole, 2) / 100,
        "batch": timed(sampler.draw_step, 100),
        "target": timed(lambda _: learner.regions.make_target(labels), 100),
        "load_model": timed(lambda _: session._load_model(str(folder / "start"), manifest.plain(), 1), 20),
        "write_update": timed(lambda _: write_update(update, arrays_of(net), manifest, received), 20),
    }
