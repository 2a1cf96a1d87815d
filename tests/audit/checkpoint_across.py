"""A training checkpoint that one version wrote is resumed by another, to the same bits, on one machine.

    python -m tests.audit.checkpoint_across OLD NEW

OLD and NEW are checkouts that both hold this file. Real training (torch) on phantoms, some minutes in all: for
a release, not for `make test`, since torch's bits differ by processor and cannot be kept. OLD trains round 1, and round
2 until it is killed as it tells of its third checkpoint; NEW goes on with round 2. Update and scores must be those of a
calm round 2 in OLD and in NEW, and NEW must say that it resumed.

Each checkout runs its own copy of this file (`--part`), which imports its own code. What the copies agree on is the
command line of a part and the files in its folder. Exit status: 0 the same bits; 1 something differs, and it is named.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRIALS: dict[str, dict[str, Any]] = {
    "UNet, batch norm, dropout, AdamW kept": {
        "net": {"name": "UNet", "channels": [4, 8], "strides": [2], "norm": "batch", "dropout": 0.3},
        "optimizer": {"name": "AdamW", "reset": False, "weight_decay": 0.01},
    },
    "SegResNet, dropout, SGD kept": {
        "net": {"name": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1], "dropout": 0.2},
        "optimizer": {"name": "SGD", "reset": False, "momentum": 0.9, "lr": 0.01},
    },
    "UNet, Adam fresh each round": {
        "net": {"name": "UNet", "channels": [4, 8], "strides": [2]},
        "optimizer": {"name": "Adam", "reset": True},
    },
}
STEPS, KILLED_AT = 6, 3
WITHIN = 600
"""Seconds for one part."""


# what one checkout does, in a process of its own


def _part(what: str, folder: Path) -> dict[str, Any]:
    """Do one part in `folder`, with this checkout's code.

    `prepare` writes data, initial model and experiment; `calm` trains both rounds in one go; `begin` trains the first,
    and the second until it is killed; `finish` trains the second from what `begin` left.
    """
    rig = next(ROOT.glob("tests/**/trainer_rig.py")).parent
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(rig)]
    from messages.ground import crash

    if what == "prepare":
        return _prepare(folder)
    if what == "calm":
        return _rounds(folder, "calm", (1, 2), checkpoints=None)
    os.environ[crash.AT] = str(folder / "crash-at")
    if what == "begin":
        _rounds(folder, "across", (1,), checkpoints=None)
        (folder / "crash-at").write_text(f"trainer:checkpoint {KILLED_AT}")
        return _rounds(folder, "across", (2,), checkpoints=0.0)
    (folder / "crash-at").unlink(missing_ok=True)
    return _rounds(folder, "across", (2,), checkpoints=3600.0)


def _prepare(folder: Path) -> dict[str, Any]:
    import trainer_rig

    from messages.experiment import Experiment
    from nets.initial import initial_model

    chosen = json.loads((folder / "trial.json").read_text("utf-8"))
    plain = trainer_rig.experiment().as_plain()
    plain["net"] = chosen["net"]
    plain["training"] |= {"local_epochs": None, "local_steps": STEPS}
    plain["training"]["optimizer"] |= chosen["optimizer"]
    manifest, buffer = initial_model(Experiment.model_validate(plain))
    trainer_rig.write_data(folder)
    (folder / "model-1").write_bytes(buffer)
    (folder / "experiment.json").write_text(json.dumps({"experiment": plain, "manifest": manifest.plain()}), "utf-8")
    return {}


def _rounds(folder: Path, cache: str, numbers: tuple[int, ...], checkpoints: float | None) -> dict[str, Any]:
    """Train rounds in one process, each from the update of the one before; what the last one said."""
    import trainer_rig

    from messages.experiment import Experiment
    from site_agent.training.protocol import CheckpointEvent, Prepared, Train, Trained

    given = json.loads((folder / "experiment.json").read_text("utf-8"))
    chosen = Experiment.model_validate(given["experiment"])
    trainer = trainer_rig.Trainer()
    try:
        assert isinstance(trainer.ask(trainer_rig.preparation(folder, chosen, cache)), Prepared)
        said: list[Any] = []
        for number in numbers:
            model = folder / "model-1" if number == 1 else folder / f"{cache}-{number - 1}.update"
            request = Train(
                round=number,
                attempt=1,
                model=str(model),
                manifest=given["manifest"],
                update=given["manifest"],
                output=str(folder / f"{cache}-{number}.update"),
                evaluate=True,
                checkpoint_seconds=checkpoints,
            )
            trainer.process.send_request(request)
            said = []
            while not (said and isinstance(said[-1], Trained)) and trainer.process.alive:
                try:
                    said.append(trainer.replies.get(timeout=1.0))
                except queue.Empty:
                    continue
        events = [one for one in said if isinstance(one, CheckpointEvent)]
        last = said[-1] if isinstance(said[-1], Trained) else None
        return {
            "written": [one.step for one in events if one.what == "written"],
            "resumed": [one.step for one in events if one.what == "resumed"],
            "trained": None if last is None else last.model_dump(mode="json", exclude={"seconds"}),
            "left": sorted(path.name for path in (folder / cache / "checkpoint").glob("*")),
        }
    finally:
        trainer.process.kill()
        trainer.process.wait(30)


# the whole trial


def _run(checkout: Path, what: str, folder: Path) -> dict[str, Any]:
    """Have a checkout do a part; RuntimeError where it fails."""
    script = checkout / "tests" / "audit" / Path(__file__).name
    done = subprocess.run(
        [sys.executable, str(script), "--part", what, str(folder)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{checkout}: {what} failed: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def try_checkpoint(old: Path, new: Path, trial: dict[str, Any], folder: Path) -> list[str]:
    """Try one experiment in the empty `folder`; what is not as it must be, in words.

    Raises:
        RuntimeError: a checkout cannot do its part.
    """
    (folder / "trial.json").write_text(json.dumps(trial), "utf-8")
    _run(old, "prepare", folder)
    calm = _run(old, "calm", folder)
    expected = (folder / "calm-2.update").read_bytes()
    shutil.rmtree(folder / "calm")
    wrong: list[str] = []
    if _run(new, "calm", folder)["trained"] != calm["trained"]:
        wrong.append("a calm round's own words are others")
    if (folder / "calm-2.update").read_bytes() != expected:
        wrong.append("a calm round makes other bits, without any checkpoint")
    begun = _run(old, "begin", folder)
    if begun["trained"] is not None or not begun["left"]:
        raise RuntimeError(f"{old}: was to be killed with a checkpoint left, and said {begun}")
    across = _run(new, "finish", folder)
    if across["resumed"] != [KILLED_AT]:
        wrong.append(f"it did not go on from step {KILLED_AT}: {across}")
    if across["trained"] != calm["trained"]:
        wrong.append("the resumed round's own words are others")
    if (folder / "across-2.update").read_bytes() != expected:
        wrong.append("the resumed round makes other bits")
    return wrong


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="tests.audit.checkpoint_across", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", choices=("prepare", "calm", "begin", "finish"), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="+", type=Path, metavar="OLD NEW")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.paths]
    if options.part:
        _say(json.dumps(_part(options.part, paths[0])))
        return 0
    if len(paths) != 2:
        parser.error("name two checkouts")
    for path in paths:
        if not (path / "tests" / "audit" / Path(__file__).name).is_file():
            parser.error(f"{path} has no tests/audit/{Path(__file__).name}: give a checkout that holds it")
    failed = False
    for name, trial in TRIALS.items():
        with tempfile.TemporaryDirectory(prefix="konsil-across-") as folder:
            try:
                wrong = try_checkpoint(paths[0], paths[1], trial, Path(folder))
            except RuntimeError as error:
                wrong = [str(error)]
        failed |= bool(wrong)
        _say(f"{name}: {'; '.join(wrong) or f'resumed at step {KILLED_AT} of {STEPS}, the same bits'}")
    return int(failed)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
