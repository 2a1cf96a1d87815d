"""Which files make which image: what a person names on the command line → cases, by names alone.

| named | read as |
|---|---|
| a file, the model has one channel | an image of its own |
| a file NAME_0000 (nnU-Net's raw layout), or with a channel's ending (BraTS) | one channel of NAME |
| another file, the model has several channels | an image of four axes, a volume for each channel |
| a folder with files | what lies in it, read in the same way; label maps are passed over |
| a folder with folders | each of these |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from messages.ground.errors import RequestError
from site_agent.datasets.cases import Case
from site_agent.datasets.filenames import LABEL, FileRoles, is_picture, nifti_stem, split_channel
from site_agent.datasets.opening import show_name

MOST_FILES = 100_000


def gather_cases(named: Sequence[Path], channels: Sequence[str]) -> list[Case]:
    """The images that are meant, in the order of their names.

    Raises:
        RequestError: nothing is there, a channel is missing, or two images have one name.
    """
    grouped: dict[str, dict[str, Path]] = {}
    for path in _list_files(named):
        name, role = _read_name(path, channels)
        files = grouped.setdefault(name, {})
        if role in files:
            raise RequestError(
                f"two files are the image {show_name(name)!r}: {files[role]} and {path}",
                advice="Predict them one after the other, into folders of their own",
            )
        files[role] = path
    if not grouped:
        what = "there is no image" + ("" if not named else f" in {', '.join(str(path) for path in named)}")
        raise RequestError(what, advice="Name NIfTI, PNG or JPEG files, or folders of them")
    return [_make_case(name, grouped[name], channels) for name in sorted(grouped)]


def pair_channels(given: Iterable[str], channels: Sequence[str]) -> Case:
    """One image whose channels are named one by one, as "T1=FILE".

    Raises:
        RequestError: a channel that the model has not, one that is missing or named twice.
    """
    files: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or name not in channels or name in files:
            why = "is named twice" if name in files else "is no channel of the model"
            raise RequestError(f"{name!r} {why}", where=f"--channel {one}", advice=f"It has {', '.join(channels)}")
        files[name] = Path(path)
    return _make_case(_name_of(next(iter(files.values()))), files, channels)


def _list_files(named: Sequence[Path]) -> list[Path]:
    """Images among what was named; of folders those that lie in them, or one folder below."""
    found: dict[Path, None] = {}
    for path in named:
        if path.is_dir():
            inside = sorted(path.iterdir())
            deeper = [one for folder in inside if folder.is_dir() for one in sorted(folder.iterdir())]
            files = [one for one in (*inside, *deeper) if _is_image(one.name) and one.is_file()]
            found |= dict.fromkeys(one for one in files if FileRoles({}).find_role(_name_of(one)) != LABEL)
        elif not path.exists():
            raise RequestError("there is no such file", where=str(path))
        elif not _is_image(path.name):
            raise RequestError(
                "is no NIfTI, PNG or JPEG file", where=str(path), advice="Convert DICOM first (dcm2niix)"
            )
        else:
            found[path] = None
        if len(found) > MOST_FILES:
            raise RequestError(f"more than {MOST_FILES} images", where=str(path), advice="Name fewer at a time")
    return list(found)


def _is_image(name: str) -> bool:
    return nifti_stem(name) is not None or is_picture(name)


def _name_of(path: Path) -> str:
    stem = nifti_stem(path.name)
    return path.stem if stem is None else stem


def _read_name(path: Path, channels: Sequence[str]) -> tuple[str, str]:
    """The image that a file belongs to, and the channel that it holds; "" for all of them."""
    stem = _name_of(path)
    numbered = split_channel(stem)
    if numbered is not None and numbered[1] < len(channels):
        return numbered[0], channels[numbered[1]]
    if len(channels) == 1:
        return stem, channels[0]
    if stem in channels:
        return path.absolute().parent.name, stem
    before, role = FileRoles({}).split_role(stem)
    if role is not None and role in channels:
        return before or path.absolute().parent.name, role
    return stem, ""


def _make_case(name: str, files: Mapping[str, Path], channels: Sequence[str]) -> Case:
    if "" in files and len(files) == 1:  # one file with four axes
        return Case(name, name, (files[""],) * len(channels), None, tuple(range(len(channels))))
    missing = [channel for channel in channels if channel not in files]
    if missing:
        advice = f"Name files NAME_0000, NAME_0001 …, or with --channel: the model sees {', '.join(channels)}"
        raise RequestError(f"no file for {', '.join(missing)}", where=show_name(name), advice=advice)
    return Case(name, name, tuple(files[channel] for channel in channels), None)
