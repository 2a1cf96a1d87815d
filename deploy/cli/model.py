"""`konsil experiment model`: the trained model as a file, in a form that other tools load."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import JsonOption, emit_json, say_line, show_working
from deploy.exporting import ENDINGS, ModelFormat, convert_apart, find_model_file
from deploy.session.profile import ProfileOption
from messages.ground.errors import RequestError
from messages.ground.naming import EXPERIMENT_ID


def write_model(
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="The experiment's id, or a safetensors file of this command.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file, or a bundle's folder; default: ID.safetensors.")
    ] = None,
    form: Annotated[
        ModelFormat, typer.Option("--format", help="What is written; a bundle is a folder.")
    ] = ModelFormat.SAFETENSORS,
    round_: Annotated[
        int | None, typer.Option("--round", help="The model after so many rounds, as long as it is kept.", min=0)
    ] = None,
    own: Annotated[
        Path | None,
        typer.Option("--own", help="What a site kept of its own (FedBN, Ditto), for other forms than safetensors."),
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="A model card beside it, ID.md, and ID.metadata.json.")] = False,
    about: Annotated[
        Path | None, typer.Option("--about", help="What people alone know, for the card (TOML).", show_default=False)
    ] = None,
    profile: ProfileOption = None,
    json_: JsonOption = False,
) -> None:
    """Fetch the trained model: safetensors, with what rebuilds the net in its metadata. Digest and seal are checked.

    With --round the coordinator is asked for the model of a round that it still keeps, whatever became of the
    experiment: it keeps the last one and the best-scored one.

    Other forms are loaded by other tools. Each is loaded again, and held against the original on invented images,
    before it gets its name. A file in the place of the id is converted without a broker.

    Examples:

    konsil experiment model glioma-unet3d-01 --out model.safetensors

    konsil experiment model glioma-unet3d-01 --format onnx

    konsil experiment model model.safetensors --format monai-bundle --out glioma-bundle
    """
    from deploy.report.card import read_facts

    given = find_model_file(identity)
    _check_options(identity, given, form, round_, own, card=card, about=about)
    facts = read_facts(about)
    name = given.stem if given is not None else identity if round_ is None else f"{identity}-round-{round_}"
    path = out or Path(f"{name}{ENDINGS[form]}")
    if not path.absolute().parent.is_dir():
        raise RequestError("the folder does not exist", where=str(path), advice="Name another place with --out")
    with show_working("looking for the model") as show, tempfile.TemporaryDirectory(prefix="konsil-") as folder:
        source = given or (path if form is ModelFormat.SAFETENSORS else Path(folder, "model.safetensors"))
        digest = _read_digest(source) if given else _fetch_file(identity, round_, source, profile, show)
        told: dict[str, Any] = {"experiment": identity, "model": str(path), "model_digest": digest}
        if form is not ModelFormat.SAFETENSORS:
            told |= {"format": form.value, "difference": convert_apart(source, form, path, own, show)}
        if card:
            show("writing the card")
            told |= _write_card(identity, path, source, facts, profile)
    if json_:
        emit_json(told)
        return
    say_line(f"{path}  digest {digest}")
    if "difference" in told:
        say_line(f"its outputs differ from the original's by {told['difference']:.1e} of the largest")
    if card:
        say_line(told["card"])
        say_line(told["metadata"])


def _check_options(
    identity: str,
    given: Path | None,
    form: ModelFormat,
    round_: int | None,
    own: Path | None,
    *,
    card: bool,
    about: Path | None,
) -> None:
    """Raises RequestError where they do not go together."""
    if given is None and not EXPERIMENT_ID.fullmatch(identity):
        raise RequestError(
            f"{identity!r} is no experiment's id, and no such file is here",
            advice="An id is 1 to 64 of a-z, 0-9 and '-'",
        )
    if card and round_ is not None:
        raise RequestError("a card describes the model that the experiment yields", advice="Leave out --round")
    if about is not None and not card:
        raise RequestError("--about says something for a card", advice="Add --card")
    if given is not None and (card or round_ is not None):
        raise RequestError("a file has no rounds and no log", where=identity, advice="Leave out --round and --card")
    if form is ModelFormat.SAFETENSORS and (given is not None or own is not None):
        what = "--own" if own is not None else "a file in the id's place"
        raise RequestError(f"{what} goes with another form", advice="Add --format torchscript, onnx or monai-bundle")


def _read_digest(path: Path) -> str:
    from nets.model_file import read_metadata

    return str(read_metadata(path)["model_digest"])


def _fetch_file(identity: str, round_: int | None, path: Path, profile: Path | None, show: Any) -> str:
    from deploy.session import model_file
    from deploy.session.connection import open_session

    with open_session(profile) as opened:
        if round_ is None:
            return model_file.fetch_model(opened, identity, path, show)
        return model_file.fetch_round(opened, identity, round_, path, show)


def _write_card(identity: str, model: Path, source: Path, facts: Any, profile: Path | None) -> dict[str, str]:
    """The card and MONAI's metadata beside the model; what was written."""
    from deploy.report.card import write_card, write_metadata
    from deploy.session.connection import open_session
    from deploy.session.history import story_of
    from nets.model_file import read_metadata

    with open_session(profile) as opened:
        story = story_of(opened, identity)
    card, metadata = model.with_suffix(".md"), model.with_suffix(".metadata.json")
    write_card(story, card, facts)
    write_metadata(story, read_metadata(source), metadata)
    return {"card": str(card), "metadata": str(metadata)}
