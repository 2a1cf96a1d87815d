"""What a trainer of a site's own needs to know of Konsil: one file, with numpy and safetensors (docs/trainers.md).

Konsil puts this file on the program's path. A whole program:

    import konsil_trainer

    def train(task, model, inputs, truths):
        ...
        return model, {"steps": 10, "loss": 0.5}

    def predict(task, model, inputs):
        return inputs @ model["weight"] + model["bias"]

    konsil_trainer.run(train, predict)
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

FORMAT = 1
Array = Any
"""A numpy array."""


class TrainerTask:
    """What is asked: task.json in the folder where the program was started.

    Attributes:
        do: "train" or "predict". round, rounds: which one, of how many. seed: of this site and round.
        task: `[task]` of the experiment file. targets: what is predicted of a case. inputs: names of the inputs.
        training: of the file's `[training]`: epochs or steps, batch, learning_rate (of this round), optimizer, loss.
        threads, gpus: what may be used.
    """

    def __init__(self, path: str = "task.json") -> None:
        with open(path, encoding="utf-8") as file:
            self.plain: dict[str, Any] = json.load(file)
        if self.plain["format"] != FORMAT:
            raise SystemExit(f"task.json has format {self.plain['format']}, and this library knows {FORMAT}")
        self.do: str = self.plain["do"]
        self.round: int = self.plain["round"]
        self.rounds: int = self.plain["rounds"]
        self.seed: int = self.plain["seed"]
        self.task: dict[str, Any] = self.plain["task"]
        self.targets: list[str] = self.plain["targets"]
        self.inputs: list[str] = self.plain["inputs"]
        self.training: dict[str, Any] = self.plain["training"]
        self.threads: int = self.plain["threads"]
        self.gpus: list[int] = self.plain["gpus"]

    def read_model(self) -> dict[str, Array]:
        """The global model: name → array."""
        return dict(load_file(self.plain["files"]["model"]))

    def read_cases(self) -> tuple[Array, Array]:
        """Inputs (cases, inputs) and truths (cases, targets), float32; truths are empty where they are to be predicted.

        An input that is an image is its path: then inputs are text.
        """
        with open(self.plain["files"]["cases"], encoding="utf-8", newline="") as file:
            _head, *lines = csv.reader(file)
        width = len(self.inputs)
        kind = np.str_ if self.plain["images"] else np.float32
        inputs = np.array([line[1 : 1 + width] for line in lines], kind).reshape(len(lines), width)
        truths = np.array([line[1 + width :] for line in lines], np.float32).reshape(len(lines), -1)
        return inputs, truths

    def report(self, step: int, of: int, loss: float | None = None) -> None:
        """Say where training is, now and then. A program that says nothing for long is ended as stuck."""
        said = {"step": int(step), "of": int(of), "loss": None if loss is None else float(loss)}
        print(json.dumps(said), flush=True)

    def write_update(self, tensors: Mapping[str, Array], steps: int, loss: float, epochs: float = 1.0) -> None:
        """End a training: the trained tensors, which get the shapes and types of the model's."""
        arrays = {
            name: np.ascontiguousarray(np.asarray(tensors[name]), known.dtype).reshape(known.shape)
            for name, known in self.read_model().items()
        }
        save_file(arrays, self.plain["files"]["update"])
        with open(self.plain["files"]["result"], "w", encoding="utf-8") as file:
            json.dump({"steps": int(steps), "loss": float(loss), "epochs": float(epochs)}, file)

    def write_predictions(self, predictions: Array) -> None:
        """End a prediction: (cases, targets): numbers in the quantity's unit, or each class's probability."""
        found = np.asarray(predictions, np.float64).reshape(-1, len(self.targets))
        with open(self.plain["files"]["predictions"], "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([self.targets, *([repr(float(one)) for one in row] for row in found)])


def run(
    train: Callable[[TrainerTask, dict[str, Array], Array, Array], tuple[Mapping[str, Array], dict[str, Any]]],
    predict: Callable[[TrainerTask, dict[str, Array], Array], Array],
) -> None:
    """Do what is asked, and end the program.

    Args:
        train: (task, model, inputs, truths) → the trained tensors, and a dict of steps, loss, and epochs where not 1.
        predict: (task, model, inputs) → predictions (cases, targets).
    """
    task = TrainerTask()
    inputs, truths = task.read_cases()
    if task.do == "train":
        tensors, result = train(task, task.read_model(), inputs, truths)
        task.write_update(tensors, **result)
    else:
        task.write_predictions(predict(task, task.read_model(), inputs))
    sys.exit(0)
