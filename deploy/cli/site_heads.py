"""`konsil site heads`: what the site has seen of the coordinator's log, as a witness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import JsonOption, emit_json, note_line, print_table, say_line

ConfigOption = Annotated[Path, typer.Option("--config", help="site.toml")]
DEFAULT = Path("site.toml")


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
    from messages.ground.errors import RequestError
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
        _write(out, seen.heads[seen.size])
    if proof is not None:
        if not seen.proof:
            raise RequestError("this site has seen no forked log", where=str(site.state))
        for place, note in enumerate(seen.proof, 1):
            _write(proof / f"head-{place}.note", note)
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


def _write(path: Path, note: bytes) -> None:
    from messages.ground.durable import replace_file
    from messages.ground.errors import RequestError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, note)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None
