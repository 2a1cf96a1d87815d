"""What the light install leaves out: `pip install konsil` brings no torch; the extra that does is named in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from messages.ground.errors import RequestError

EXTRAS = {
    "site": (
        "torch",
        "monai",
        "dp_accounting",
        "scipy",
        "nibabel",
        "psutil",
        "pydicom",
        "pynetdicom",
        "highdicom",
        "dicomweb_client",
        "requests",
    ),
    "coordinator": ("prometheus_client",),
    "onnx": ("onnx", "onnxruntime"),
    "export": ("mlflow", "tensorboard"),
}
"""Extra → modules that it brings. `site` also brings what `coordinator` does."""
NEEDS = {
    ("demo",): ("site", "torch"),
    ("simulate",): ("site", "torch"),
    ("predict",): ("site", "torch"),
    ("privacy",): ("site", "torch"),
    ("site", "run"): ("site", "torch"),
    ("site", "preflight"): ("site", "torch"),
    ("coordinator", "run"): ("coordinator", "torch"),
}
"""Words of a command → the extra that it needs, and a module that tells whether that is installed."""


class MissingExtra(RequestError):
    """A part of Konsil is asked for that is not installed."""


def need_module(module: str, extra: str | None = None, *, what: str = "this") -> None:
    """Raises MissingExtra where a module is not installed.

    Args:
        extra: what brings it; None: as the table says.
        what: what needs it, in words.
    """
    if importlib.util.find_spec(module) is None:
        raise _say_missing(module, extra or _extra_of(module) or "site", what)


def need_for_command(arguments: Sequence[str]) -> None:
    """Raises MissingExtra where a command needs what is not installed; its help needs nothing."""
    words = tuple(word for word in arguments if not word.startswith("-"))
    if {"-h", "--help"} & set(arguments):
        return
    for named, (extra, module) in NEEDS.items():
        if words[: len(named)] == named:
            need_module(module, extra, what=f"`konsil {' '.join(named)}`")


def blame_missing(error: ModuleNotFoundError) -> MissingExtra | None:
    """A module that an extra brings as one line; None: it is in none, so that may be a defect."""
    module = (error.name or "").partition(".")[0]
    extra = _extra_of(module)
    return None if extra is None else _say_missing(module, extra, "this")


def _extra_of(module: str) -> str | None:
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


def _say_missing(module: str, extra: str, what: str) -> MissingExtra:
    return MissingExtra(f"{what} needs {module}, which is not installed", advice=f"pip install 'konsil[{extra}]'")
