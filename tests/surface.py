"""What users type and read, as text: commands, keys of files, reason codes, exit statuses.

    python -m tests.surface       writes it anew into tests/unit/deploy/surface/

A change there is a change for users: it belongs into CHANGELOG.md, and what was typed before has to work on, or to say
what to type now.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coordinator.config import CoordinatorConfig
from deploy.cli import command
from deploy.session.profile import Profile
from messages.experiment import Experiment
from messages.ground import errors
from messages.reasons import ADVICE, Reason
from messages.tasks.base import select_word
from messages.tasks.registry import TASKS
from nets.registry import NETS
from site_agent.config import SiteConfig

FOLDER = Path(__file__).parent / "unit" / "deploy" / "surface"
WIDTH = "100"


def commands() -> Iterator[str]:
    """Each command with its help, its arguments and its options."""
    for name in command.PARTS:
        root: Any = typer.main.get_command(command.build_parser([name]))
        yield from _command(f"konsil {name}", root.commands[name])
    yield "$ python -m deploy.install --help"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KONSIL_")}
    told = subprocess.run(
        [sys.executable, "-m", "deploy.install", "--help"],
        env=environment | {"COLUMNS": WIDTH},
        check=True,
        capture_output=True,
        text=True,
    )
    yield from told.stdout.splitlines()


def _command(path: str, one: Any) -> Iterator[str]:
    arguments = [param for param in one.params if param.param_type_name == "argument"]
    yield " ".join([f"$ {path}", *(param.metavar or param.name.upper() for param in arguments)])
    yield from (f"    {line}".rstrip() for line in (one.help or "").splitlines())
    for param in one.params:
        if param.hidden:
            continue
        told = "required" if param.required else f"default {_plain(param.default)}"
        many = ", repeatable" if param.multiple or param.nargs != 1 else ""
        argument = param.param_type_name == "argument"
        names = (param.metavar or param.name.upper()) if argument else "/".join([*param.opts, *param.secondary_opts])
        yield f"  {names}: {_kind(param)}, {told}{many}. {param.help or ''}".rstrip()
    yield ""
    for name, child in sorted(getattr(one, "commands", {}).items()):
        yield from _command(f"{path} {name}", child)


def _kind(param: Any) -> str:
    """What an option takes; typer keeps the annotation that it was made of."""
    if getattr(param, "is_flag", False):
        return "flag"
    bounds = [f"{word} {bound}" for word, bound in (("min", param.min), ("max", param.max)) if bound is not None]
    return " ".join([_words(param.type_descriptor.annotation), *bounds])


def files() -> Iterator[str]:
    """Each key that a file may hold, its type and its default."""
    for name, model in (
        ("experiment.toml", Experiment),
        ("site.toml", SiteConfig),
        ("coordinator.toml", CoordinatorConfig),
        ("profile.toml", Profile),
    ):
        yield f"[{name}]"
        yield from _keys(model, "")
        yield ""
    for kind, task in TASKS.items():
        yield f"[experiment.toml, task.kind = {kind!r}]"
        yield from _keys(task, "task.")
        yield f"training.loss: {' | '.join(map(repr, task.losses))}"
        yield f"evaluation.metrics: {' | '.join(map(repr, task.reader_type.metrics))}"
        yield f"evaluation.select_by: {select_word(task.reader_type.metric)!r} | 'last'"
        yield ""
    for net in sorted(NETS):
        yield f"[experiment.toml, net.name = {net!r}]"
        yield from _keys(NETS[net], "net.")
        yield ""


def _keys(model: type[BaseModel], place: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = place + (field.alias or name)
        sections = list(_models(field.annotation))
        if sections and not _is_table_of(field.annotation, dict) and not _is_table_of(field.annotation, tuple):
            yield f"{key}: section{_default(field, section=True)}"
            for section in sections:
                yield from _keys(section, f"{key}.")
        else:
            bounds = "".join(f", {one}" for one in map(_bound, field.metadata) if one)
            yield f"{key}: {_words(field.annotation)}{bounds}{_default(field, section=bool(sections))}"
            for section in sections:
                yield from _keys(section, f"{key}.{_name_of(section) if len(sections) > 1 else '*'}.")


def _name_of(section: type[BaseModel]) -> str:
    """Which of several sections this is, in words that users type and not by the class."""
    source = section.model_fields["source"]
    return f"({_words(source.annotation)})"


def _is_table_of(annotation: Any, kind: type) -> bool:
    return get_origin(annotation) is kind


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)


def _default(field: FieldInfo, *, section: bool) -> str:
    if field.is_required():
        return ", required"
    value = field.get_default(call_default_factory=True)
    return "" if section and isinstance(value, BaseModel) else f" = {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return repr(value.value)
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return "computed"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    return (
        "none"
        if value is None
        else repr(value)
        if isinstance(value, str | int | float | dict)
        else type(value).__name__
    )


def _words(annotation: Any) -> str:
    """A type in words of our own: other versions of Python and pydantic may not change it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = "".join(f" {one}" for one in map(_bound, args[1:]) if one)
        return _words(args[0]) + (f" ({bounds.strip()})" if bounds else "")
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("none" if one is type(None) else _words(one) for one in args))
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin in (list, tuple, frozenset, set):
        return (
            f"list of {_words(args[0])}"
            if origin is not tuple or args[1:] == (...,)
            else (f"[{', '.join(map(_words, args))}]")
        )
    if origin is dict or origin is Mapping:
        return f"table of {_words(args[0])} to {_words(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(repr(one.value) for one in annotation)
    return getattr(annotation, "__name__", str(annotation))


def _bound(item: Any) -> str:
    """A bound such as ge, le, min_length, pattern; nothing for a function that parses."""
    if isinstance(item, FieldInfo):
        return " ".join(filter(None, map(_bound, item.metadata)))
    names = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
    return " ".join(f"{name} {getattr(item, name)}" for name in names if getattr(item, name, None) is not None)


def reasons() -> Iterator[str]:
    """Each reason code with its advice."""
    yield from (f"{one.value}: {ADVICE[one]}" for one in Reason)


def statuses() -> Iterator[str]:
    """Each exit status, and what ends with it."""
    found: dict[int, list[str]] = {0: ["done"], command.EXIT_INTERRUPTED: ["interrupted (Ctrl-C)"]}
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, errors.KonsilError):
            found.setdefault(one.exit_status, []).append(one.__name__)
    for status, names in sorted(found.items()):
        yield f"{status}: {', '.join(sorted(names))}"
    yield command.EPILOG


PARTS: Mapping[str, Callable[[], Iterator[str]]] = {
    "commands.txt": commands,
    "files.txt": files,
    "reasons.txt": reasons,
    "statuses.txt": statuses,
}


def text_of(part: str) -> str:
    """One file's text, as the code has it now."""
    return "\n".join(PARTS[part]()) + "\n"


def main() -> None:
    """Write all files anew."""
    FOLDER.mkdir(exist_ok=True)
    for part in PARTS:
        (FOLDER / part).write_text(text_of(part), encoding="utf-8")


if __name__ == "__main__":
    main()
