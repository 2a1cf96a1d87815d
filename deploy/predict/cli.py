"""`konsil predict`: a trained model on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import JsonOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.predict.writing import Row
    from site_agent.datasets.cases import Case
    from site_agent.training.tasks.prediction import Predictor

RESEARCH_ONLY = "For research only: no medical device, and not for diagnosis."


def app(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file of `experiment model` or of a demo.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGES", help="NIfTI, PNG or JPEG files, or folders of them.", show_default=False),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", help="One image, its channels named one by one: --channel T1=a.nii.gz."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("predictions"),
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Pictures too: each region's outline over the image.")
    ] = False,
    own: Annotated[
        Path | None,
        typer.Option("--own", help="What a site kept of its own (FedBN, Ditto): the newest file of its cache."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:1; default: a GPU if there is one.")] = "",
    json_: JsonOption = False,
) -> None:
    """Use a trained model: masks of each region on the image's own grid, or a table of probabilities or numbers.

    Files that belong together are found by their names: NAME_0000, NAME_0001 (nnU-Net), or NAME_t1.nii.gz,
    NAME_flair.nii.gz (BraTS), or one file with four axes. An image that cannot be used is named, and the others are
    predicted; exit status 1.

    Examples:

    konsil predict model.safetensors case.nii.gz --overlay

    konsil predict model.safetensors imagesTs --out predictions
    """
    from deploy import console
    from deploy.predict import gathering, writing
    from messages.ground.errors import RequestError
    from nets.model_file import read_metadata

    if bool(images) == bool(channel):
        raise RequestError("name images, or one image's channels with --channel", advice="See --help")
    about = read_metadata(model)
    cases = [gathering.pair_channels(channel, about["channels"])] if channel else []
    cases += gathering.gather_cases(images or [], about["channels"]) if images else []
    with console.show_working("loading the model") as tell:
        predictor = _load_predictor(model, own, device)
        writing.open_folder(out, _list_results(predictor, cases, out, overlay=overlay))
        rows, failed = _predict_all(predictor, cases, out, tell)
        table = writing.write_table(out, rows)
        drawn = [case for case in cases if case.key not in failed]
        pictures = _draw_overlays(predictor, drawn, out, tell) if overlay else []
    _report(predictor, cases, rows, failed, table, pictures, as_json=json_)
    raise typer.Exit(1 if failed else 0)


def _load_predictor(model: Path, own: Path | None, device: str) -> Predictor:
    import torch

    from messages.ground.errors import RequestError
    from site_agent.training.tasks.prediction import Predictor

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(chosen)
        if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
            raise RuntimeError
    except RuntimeError:
        raise RequestError("this machine has no such device", where=f"--device {chosen}", advice="Try cpu") from None
    return Predictor(model, place, own)


def _list_results(predictor: Predictor, cases: list[Case], out: Path, *, overlay: bool) -> list[Path]:
    """Every file that may be written, beside the table."""
    from deploy.predict.writing import list_maps
    from site_agent.dicom.prepared.preview import name_sheets

    regions = tuple(predictor.about.get("regions", ()))
    sheets = name_sheets(out, len(cases)) if overlay and regions else []
    return list_maps(out, cases, regions, merged=predictor.excludes) + sheets


def _predict_all(
    predictor: Predictor, cases: list[Case], out: Path, tell: Callable[[str], None]
) -> tuple[list[Row], dict[str, str]]:
    from deploy.predict import writing
    from messages.ground.errors import WorkFailed
    from site_agent.datasets.barrier import CaseError, hold_faults
    from site_agent.datasets.cases import read_case

    rows: list[Row] = []
    failed: dict[str, str] = {}
    for number, case in enumerate(cases, start=1):
        tell(f"image {number} of {len(cases)}: {case.key}")
        try:
            with hold_faults(case.key):
                loaded = read_case(case, {}, None)
                said = predictor.predict(loaded)
        except CaseError as error:
            failed[case.key] = f"{error.what} ({error.reason})"
            continue
        try:
            writing.write_masks(out, case, loaded, said.masks)
            if predictor.excludes:
                writing.write_label_map(out, case, loaded, said.masks)
        except OSError as error:
            raise WorkFailed(f"cannot be written ({error.strerror})", where=str(out)) from None
        rows += writing.list_rows(case, loaded, said, predictor.about)
    return rows, failed


def _draw_overlays(predictor: Predictor, cases: list[Case], out: Path, tell: Callable[[str], None]) -> list[Path]:
    """Contact sheets of the images with the regions' outlines; none where the model draws none."""
    from dataclasses import replace

    from deploy.predict.writing import merge_masks
    from site_agent.datasets.barrier import hold_faults
    from site_agent.datasets.cases import LoadedCase, read_case
    from site_agent.dicom.prepared.preview import write_sheets

    regions = tuple(predictor.about.get("regions", ()))

    def load(case: Case) -> LoadedCase:
        with hold_faults(case.key):
            loaded = read_case(case, {}, None)
            masks = predictor.predict(loaded).masks
        return replace(loaded, label=merge_masks(masks, loaded.label.shape), concepts=regions)

    def progress(done: int, total: int) -> None:
        tell(f"drawing {done + 1} of {total}")

    return write_sheets(out, cases, load, predictor.about["channels"], regions, progress) if regions else []


def _report(
    predictor: Predictor,
    cases: list[Case],
    rows: list[Row],
    failed: dict[str, str],
    table: Path,
    pictures: list[Path],
    *,
    as_json: bool,
) -> None:
    from deploy import console

    about: dict[str, Any] = predictor.about
    for name, why in failed.items():
        console.note_line(f"konsil: {name}: {why}")
    if as_json:
        console.emit_json(
            {
                "model_digest": about["model_digest"],
                "experiment": about.get("experiment"),
                "predicted": len(cases) - len(failed),
                "failed": failed,
                "out": str(table.parent),
                "rows": rows,
                "pictures": [str(path) for path in pictures],
            }
        )
        return
    if rows:
        console.print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    console.say_line(f"{len(cases) - len(failed)} of {len(cases)} images: {table}")
    for path in pictures:
        console.say_line(f"picture: {path}")
    console.say_line(f"model {about['model_digest'][:12]} of {about.get('experiment', '?')}. {RESEARCH_ONLY}")
