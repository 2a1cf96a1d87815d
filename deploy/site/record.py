"""`konsil site heads`, `lineage`, `forget`, `commitments`, and what an auditor does with the commitments' file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.console import JsonOption, emit_json, format_moment, note_line, print_table, say_line
from deploy.site.options import DEFAULT, ConfigOption
from messages.chain import Entry
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError, WorkFailed
from messages.ground.units import count_noun
from messages.ground.written.documents import read_json

if TYPE_CHECKING:
    from site_agent.config import SiteConfig
    from site_agent.disk.lineage import Went

_WHAT = "A case as `konsil site datasets` names it, or a patient; of a PACS also a Patient ID or a Study Instance UID."


def lineage(
    name: Annotated[str, typer.Argument(metavar="CASE", help=_WHAT)],
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Every experiment, round and model that a case or a patient went into. For local eyes only; nothing is sent.

    What was trained is not unlearned: each later model of the experiment holds it, too. `konsil experiment rerun` makes
    a model anew without this site. The agent need not run.

    Example: konsil site lineage BraTS-0007
    """
    from site_agent.config import read_config
    from site_agent.disk.lineage import read_beginnings, read_lineage

    site = read_config(config)
    record = read_lineage(site.site.state)
    found = record.trace_case(_names_of(site, name))
    heirs = record.trace_heirs(found, read_beginnings(site.site.state))
    if as_json:
        emit_json({"rounds": [asdict(one) for one in found], "heirs": heirs})
    elif not found:
        note_line("It went into no round that is on record here; `konsil site datasets` shows the names of cases")
    else:
        print_table(
            ["experiment", "round", "as", "model", ""],
            [[one.experiment, str(one.round), one.split, one.model[:16], _outcome(one)] for one in found],
        )
        for heir in heirs:
            say_line(f"{heir} begins with such a model: each of its models holds it")


def _outcome(one: Went) -> str:
    if one.split != "train":
        return "scored with it, not trained on it"
    if one.used is None:
        return "the round's end was not heard"
    return "in this model and each later one" if one.used else "trained on it; the round closed without this site"


def forget(
    name: Annotated[str | None, typer.Argument(metavar="[CASE]", help=_WHAT)] = None,
    destroy_keys: Annotated[
        bool, typer.Option("--destroy-keys", help="Destroy every key: all marks and commitments become noise.")
    ] = False,
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Erase, for good, what links a case or patient with any round; or all keys of this record.

    It takes nothing out of a model, and no case out of the data: for that name the case in the list of the withdrawn.

    Example: konsil site forget BraTS-0007
    """
    from site_agent.config import read_config
    from site_agent.disk.lineage import read_lineage

    if (name is None) != destroy_keys:
        raise RequestError("name a case, or give --destroy-keys", where="konsil site forget")
    site = read_config(config)
    record = read_lineage(site.site.state)
    gone = record.destroy_keys() if name is None else record.forget_case(_names_of(site, name))
    if as_json:
        emit_json({"destroyed": gone})
    elif name is None:
        say_line(f"{gone} keys destroyed: no commitment of this site can be opened any more")
    else:
        say_line(f"{count_noun(gone, 'link')} erased")


def commitments(
    experiment: Annotated[str | None, typer.Option("--experiment", metavar="ID", help="Of this one only.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write them with their keys, for an auditor to check.")
    ] = None,
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """What this site has committed to as it joined: its policy, and its data set, as keyed digests.

    The log has the digests alone. A file that --out writes opens them: whoever has it reads this site's policy. The key
    of the data opens those of all experiments; the file holds digests of images, and no name.

    Example: konsil site commitments --experiment glioma-01 --out site-a.proof.json
    """
    from site_agent.config import read_config
    from site_agent.disk.lineage import read_lineage

    site = read_config(config).site
    found = read_lineage(site.state).list_commitments(experiment)
    rows: list[dict[str, Any]] = [
        {"experiment": one.experiment, "kind": one.kind, "digest": one.digest, "time": one.time} for one in found
    ]
    if out is not None:
        opened = [
            {**row, "key": one.key.hex(), "content": one.content}
            for row, one in zip(rows, found, strict=True)
            if one.key is not None
        ]
        if not opened:
            raise RequestError("there is no commitment to open", where=experiment or str(config))
        content = json.dumps({"proof": 1, "site": site.name, "commitments": opened}, indent=1) + "\n"
        try:
            replace_file(out, content.encode(), mode=0o600)  # it holds keys
        except OSError as error:
            raise WorkFailed(f"cannot be written ({error.strerror})", where=str(out)) from None
    if as_json:
        keys = [{**row, "key": one.key is not None} for row, one in zip(rows, found, strict=True)]
        emit_json({"site": site.name, "commitments": keys})
        return
    print_table(
        ["time", "experiment", "of", "digest", ""],
        [
            [
                format_moment(one.time),
                one.experiment,
                one.kind,
                one.digest[:16],
                "" if one.key else "erased: it cannot be opened",
            ]
            for one in found
        ],
    )
    if out is not None:
        note_line(f"{out}: opens {count_noun(len(opened), 'commitment')}; whoever has it reads what was committed to")


def heads(
    config: ConfigOption = DEFAULT,
    out: Annotated[Path | None, typer.Option("--out", help="Write the newest head to this file.")] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", help="Write both heads of a forked log into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The signed heads of the coordinator's log that this site has seen and kept; the agent need not run.

    Hand the file of --out to an auditor: `konsil audit verify LOG --head FILE` shows whether a log was cut or forked.
    Exit status 1: the coordinator showed this site a log that does not follow from what it had seen.

    Examples:

    konsil site heads

    konsil site heads --out site-a.head
    """
    from messages.log.heads import origin_of, read_head
    from messages.trust.notes import read_note
    from site_agent.config import read_config
    from site_agent.disk.seen_log import read_seen

    site = read_config(config).site
    seen = read_seen(site.state)
    found = [read_head(read_note(note), origin_of(site.consortium)) for _size, note in sorted(seen.heads.items())]
    if out is not None:
        if not seen.heads:
            raise RequestError("this site has seen no head of the log yet", where=str(site.state))
        _write_note(out, seen.heads[seen.size])
    if proof is not None:
        if not seen.proof:
            raise RequestError("this site has seen no forked log", where=str(site.state))
        for place, note in enumerate(seen.proof, 1):
            _write_note(proof / f"head-{place}.note", note)
    if as_json:
        openings: dict[str, Any] = {
            name: {"round": one.round, "opening": one.opening, "size": one.size, "witnesses": list(one.witnesses)}
            for name, one in seen.openings.items()
        }
        emit_json(
            {
                "site": site.name,
                "heads": [{"size": one.size, "root": one.root.hex()} for one in found],
                "openings": openings,
                "forked": bool(seen.proof),
                "declared_forks": list(seen.forks),
            }
        )
    elif found:
        print_table(["entries", "root"], [[str(one.size), one.root.hex()] for one in found])
        for name, one in seen.openings.items():
            saw = ", ".join(one.witnesses) or "nobody"
            say_line(f"{name}: round {one.round}; the head of the opening before was also seen by {saw}")
    else:
        note_line("No head of the log was seen yet")
    for term in () if as_json else seen.forks:
        say_line(f"the operator declared that the log was restored, under term {term}")
    if seen.proof:
        if not as_json:
            say_line("the log was FORKED: the coordinator signed two heads of which neither follows from the other")
        raise typer.Exit(1)


def _write_note(path: Path, note: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, note)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None


def _names_of(site: SiteConfig, name: str) -> list[str]:
    """What may stand for a name in the record: itself, and its pseudonyms where data come from DICOM."""
    from site_agent.dicom.config import DicomDataset
    from site_agent.disk.secret import secret_of

    if not any(isinstance(one, DicomDataset) for one in site.datasets.values()):
        return [name]
    from site_agent.dicom.door.pseudonyms import Pseudonyms

    known = Pseudonyms(secret_of(site.site.state))
    return [name, known.pseudonym_of_patient(name), known.pseudonym_of_case(name)]


# what an auditor does


class OpenedCommitment(BaseModel):
    """One commitment with what opens it."""

    model_config = ConfigDict(frozen=True, strict=True)

    experiment: str
    kind: str
    digest: str
    key: str = Field(pattern="^[0-9a-f]{64}$")
    content: str


class Proof(BaseModel):
    """What `konsil site commitments --out` writes; what a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, strict=True)

    proof: int
    site: str
    commitments: list[OpenedCommitment]


def read_proof(path: Path) -> Proof:
    """RequestError where it is none."""
    advice = "Write it at the site: `konsil site commitments --out FILE`"
    try:
        return Proof.model_validate(read_json(path, refuse=RequestError, advice=advice))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RequestError(
            f"opens no commitments (look at {place or 'its top'})", where=str(path), advice=advice
        ) from None


def committed_in(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """(experiment, site) → what the site committed to each time that it joined, by what it is of."""
    from coordinator.core import inputs as i
    from coordinator.record.journal import STEP
    from coordinator.record.recovery import read_step

    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        given = read_step(entry)[0] if entry.type == STEP else None
        if isinstance(given, i.Received) and given.event.kind == "joined":
            found.setdefault((given.event.experiment, given.event.sender), []).append(given.event.ext)
    return found


def check_proof(proof: Proof, logged: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each commitment of a site, with `holds`: the text is what the site committed to in the log. `why`: why not."""
    from site_agent.disk.lineage import commit_to

    rows = []
    for one in proof.commitments:
        said = logged.get((one.experiment, proof.site), [])
        why = ""
        if commit_to(bytes.fromhex(one.key), one.kind, one.content) != one.digest:
            why = "text and key do not make this digest"
        elif not said:
            why = "the log has no joining of this site"
        elif one.digest not in {ext.get(one.kind) for ext in said}:
            why = "the log has another digest, or none"
        row = {"site": proof.site, "experiment": one.experiment, "kind": one.kind, "digest": one.digest}
        rows.append({**row, "holds": not why, "why": why, "content": one.content})
    return rows
