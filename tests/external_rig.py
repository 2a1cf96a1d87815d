"""Operators' programs for tests: a table of numbers, a program, and a whole federation of sites that run programs.

The federation is the real coordinator and the real agents on the bus in memory; what trains are real processes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from coordinator_kit import CONSORTIUM, Waiting, broker, config

from coordinator.config import Limits
from coordinator.service import Coordinator
from deploy.session.history import HistoryReader
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBus
from messages.chain import decode_entry
from messages.envelope import Author
from messages.experiment import Experiment
from messages.tensors.layout import Manifest, tensors_of
from nets.initial import initial_model
from site_agent.config import SiteConfig
from site_agent.service import Agent
from site_agent.training.protocol import Prepare, Train

LINEAR = """
import numpy as np
import konsil_trainer

def train(task, model, inputs, truths):
    weight, bias = model["weight"].astype(float), model["bias"].astype(float)
    steps = task.training["steps"]
    for step in range(steps):
        off = inputs @ weight + bias - truths
        weight -= task.training["learning_rate"] * 2 * inputs.T @ off / len(inputs)
        bias -= task.training["learning_rate"] * 2 * off.mean(0)
        task.report(step + 1, steps, float((off ** 2).mean()))
    return {"weight": weight, "bias": bias}, {"steps": steps, "loss": float((off ** 2).mean())}

def predict(task, model, inputs):
    return inputs @ model["weight"] + model["bias"]

konsil_trainer.run(train, predict)
"""
"""Linear regression by gradient descent, in numpy."""
TRUE = np.array([[2.0], [-1.0]])
TENSORS = [{"name": "weight", "shape": [2, 1]}, {"name": "bias", "shape": [1]}]


def write_table(folder: Path, seed: int, cases: int = 200) -> Path:
    """A table of two numbers and what follows from them: y = 2 a - b + 0.5; two lines a patient."""
    drawn = np.random.default_rng(seed)
    inputs = drawn.normal(size=(cases, 2))
    values = inputs @ TRUE + 0.5 + drawn.normal(scale=0.01, size=(cases, 1))
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"p{number // 2},{a:.6f},{b:.6f},{y:.6f}"
        for number, ((a, b), (y,)) in enumerate(zip(inputs, values, strict=True))
    ]
    (folder / "labels.csv").write_text("\n".join(["who,first,second,outcome", *lines]) + "\n")
    return folder


def table_of_numbers(folder: Path, **more: Any) -> dict[str, Any]:
    columns = {"numbers": ["first", "second"], "patient": "who", "label": "outcome"}
    return {"source": "table", "path": str(folder), "channels": ["a", "b"], "table": columns, **more}


def experiment(**changes: Any) -> Experiment:
    plain: dict[str, Any] = {
        "schema": 1,
        "id": "exp-1",
        "seed": 7,
        "sites": ["site-a"],
        "task": {"kind": "regression", "channels": ["a", "b"], "quantity": "outcome"},
        "data": {"dataset": "clinic"},
        "net": {"name": "Tensors", "tensors": TENSORS},
        "training": {"trainer": "linear", "local_steps": 10, "optimizer": {"name": "SGD", "lr": 0.1}},
        "evaluation": {"every": 3, "select_by": "last"},
        "rounds": {"count": 3},
    }
    return Experiment.model_validate({**plain, **changes})


def register(folder: Path, text: str = LINEAR, name: str = "program.py", **more: Any) -> dict[str, Any]:
    """A program, and what site.toml says of it under [trainers.NAME]."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(text)
    python = more.pop("python", sys.executable)
    plain = {"command": [python, str(program)], "program": str(program), "sha256": sha256(text.encode()).hexdigest()}
    return {**plain, **more}


def preparation(folder: Path, trainer: Mapping[str, Any], chosen: Experiment | None = None, **more: Any) -> Prepare:
    """As the agent asks; the table lies in `folder/data`, the site's state in `folder/state`."""
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").is_dir():
        write_table(folder / "data", seed=1)
    given: dict[str, Any] = {
        "experiment": (chosen or experiment()).filled(),
        "dataset": SiteConfig.model_validate(site_plain("site-a", state, folder / "data", {})).datasets["clinic"],
        "site": "site-a",
        "secret": bytes(32),
        "threads": 1,
        "cache": str(state / "cache"),
        "state": str(state),
        "external": dict(trainer),
    }
    given["dataset"] = given["dataset"].model_dump(mode="json")
    return Prepare(**{**given, **more})


def training(folder: Path, chosen: Experiment | None = None, **more: Any) -> Train:
    """A round, on the experiment's first model."""
    manifest, buffer = initial_model(chosen or experiment())
    (folder / "model").write_bytes(buffer)
    given: dict[str, Any] = {
        "round": 1,
        "attempt": 1,
        "model": str(folder / "model"),
        "manifest": manifest.plain(),
        "update": manifest.plain(),
        "output": str(folder / "update"),
    }
    return Train(**{**given, **more})


def tensors_in(path: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    described = Manifest.model_validate(manifest)
    return {name: one.read_all() for name, one in tensors_of(described, path.read_bytes()).items()}


def site_plain(site: str, state: Path, data: Path, trainers: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "schema": 1,
        "site": {"name": site, "consortium": CONSORTIUM, "state": str(state)},
        "datasets": {"clinic": table_of_numbers(data)},
        "limits": {"threads": 1},
        "policy": {"approval": "auto", "allow": [{"trainers": ["konsil", *trainers]}]},
        "trainers": dict(trainers),
    }
    return {**plain, **sections}


def build_in_process(chosen: Experiment, out: Path, manifest: Path, limits: Limits) -> None:
    described, buffer = initial_model(chosen)
    out.write_bytes(buffer)
    manifest.write_text(described.model_dump_json())


class ProgramFederation:
    """Coordinator and sites; each site with a table of its own.

    Args:
        trainers: site → what its site.toml says under [trainers].
    """

    def __init__(self, folder: Path, trainers: Mapping[str, Mapping[str, Any]]) -> None:
        self.broker, self.news = broker(), Waiting()
        self.heard: list[envelope.Event] = []
        self.researcher = MemoryBus(self.broker, "dr-a")
        self._reader = HistoryReader()
        self._audit = self.researcher.subscribe("audit", self._take)
        self.coordinator = Coordinator(
            config(folder / "coordinator"),
            connect=lambda _config, notice: MemoryBus(self.broker, "coordinator", on_notice=notice),
            build=build_in_process,
        )
        self.agents = {}
        for seed, (site, registered) in enumerate(trainers.items()):
            (folder / site).mkdir(parents=True)
            plain = site_plain(site, folder / site, write_table(folder / f"data-{site}", seed), registered)
            self.agents[site] = Agent(
                SiteConfig.model_validate(plain),
                lambda c, notice: MemoryBus(self.broker, c.site.name, on_notice=notice),
            )
        parties = (self.coordinator, *self.agents.values())
        self._threads = [threading.Thread(target=one.run, daemon=True) for one in parties]
        for thread in self._threads:
            thread.start()

    def _take(self, delivery: Delivery) -> None:
        self.heard += self._reader.of_entry(decode_entry(delivery.body))
        self._audit.ack(delivery)
        with self.news.changed:
            self.news.changed.notify_all()

    def publish(self, chosen: Experiment) -> None:
        body = kinds.ExperimentStart(experiment=chosen.as_plain())
        event = Author(CONSORTIUM, "dr-a").write_event("experiment-start", body, time=0.0, experiment=chosen.id, seq=1)
        self.researcher.publish(event.key, event.raw)

    def of(self, kind: str) -> list[envelope.Event]:
        return [one for one in self.heard if one.kind == kind]

    def until(self, kind: str, within: float) -> envelope.Event:
        self.news.until(lambda: self.of(kind), f"{kind}; heard {[one.kind for one in self.heard]}", within)
        return self.of(kind)[-1]

    def close(self) -> None:
        for one in (*self.agents.values(), self.coordinator):
            one.stop()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self.researcher.close()
