"""`konsil demo`: a consortium on this machine."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.console import JsonOption
from messages.ground.errors import RequestError


def app(
    sites: Annotated[int, typer.Option("--sites", help="Hospitals, 1 to 26.")] = 3,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="Rounds of training; default 10, and 20 with --data.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same data, same split, same bits.", min=0)] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A real data set (Decathlon or nnU-Net layout) to split among the sites, not phantoms."
        ),
    ] = None,
    from_pacs: Annotated[
        bool,
        typer.Option("--from-pacs", help="Phantoms as DICOM in an Orthanc a site: DICOMweb, C-GET and C-MOVE in turn."),
    ] = False,
    baselines: Annotated[
        str, typer.Option("--baselines", help="Compared with: pooled, alone, both (pooled,alone), or none.")
    ] = "pooled",
    codec: Annotated[
        str, typer.Option("--codec", help="How tensors travel: float32, bfloat16 or bfloat16-difference.")
    ] = "float32",
    secure: Annotated[str | None, typer.Option("--secure", help="Nobody sees a single site's update: masks.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where report, model and log go; default demo-out/DATE-TIME.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep images, caches and the broker's data too.")] = False,
    tls: Annotated[bool, typer.Option("--tls", hidden=True, help="As it is always.")] = False,
    json_: JsonOption = False,
) -> None:
    """Three hospitals on this machine train one model through a real RabbitMQ.

    Starts a private broker, a coordinator and site agents as processes, the very ones that production runs; publishes
    one experiment, shows it, and leaves report, model and event log. Ctrl-C ends all of it.

    Examples:

    konsil demo

    konsil demo --from-pacs

    konsil demo --secure masks

    konsil demo --data Task04_Hippocampus --rounds 20 --baselines pooled,alone
    """
    from deploy.broker.node import find_epmd, find_server
    from deploy.demo import layout
    from deploy.demo.consortium import MOST_SITES
    from messages.tensors.codecs import CODECS

    wanted = _parse_baselines(baselines)
    if not 1 <= sites <= MOST_SITES:
        raise RequestError(f"--sites {sites} is not allowed", advice=f"Use 1 to {MOST_SITES}")
    if codec not in CODECS:
        raise RequestError(f"--codec {codec!r} does not exist", advice=f"Use {', '.join(CODECS)}")
    _check_secure(secure, sites, codec)
    if from_pacs and data is not None:
        raise RequestError("--from-pacs and --data exclude each other", advice="--from-pacs brings phantoms of its own")
    find_server()  # says how to install it, before anything is written
    find_epmd()
    if from_pacs:
        from deploy.orthanc.configuration import find_orthanc

        find_orthanc()
    if data is not None:
        from deploy.demo.data import read_real

        read_real(data)  # refuses what is no data set, before anything is written
    from deploy.demo.run import Options, ending_on_sigterm, run_demo

    options = Options(
        layout.prepare_layout(out or layout.default_out()),
        sites=sites,
        rounds=rounds,
        seed=seed,
        data=data,
        from_pacs=from_pacs,
        baselines=wanted,
        keep=keep,
        overrides={"wire": {"codec": codec}, **({"privacy": {"secure_aggregation": secure}} if secure else {})},
    )
    from deploy import console
    from deploy.cli import live
    from deploy.demo import outcome as outcomes

    # With --json standard output holds the one object, and everything else goes to standard error.
    with contextlib.redirect_stdout(sys.stderr if json_ else sys.stdout), ending_on_sigterm():
        outcome = run_demo(options, live.choose_view(False), console.make_notes("konsil: "))
    if json_:
        console.emit_json(outcomes.outcome_as_plain(outcome))
        return
    console.say_line()
    console.print_table(*outcomes.draw_table(outcome))
    for line in outcomes.closing_lines(outcome):
        console.say_line(line)


def _check_secure(mode: str | None, sites: int, codec: str) -> None:
    from messages.secure.section import CARRIED_OUT, LEAST_SECURE_SITES

    if mode is None:
        return
    if mode not in CARRIED_OUT - {"dp"}:
        raise RequestError(f"--secure {mode!r} does not exist", advice="Use masks")
    if sites < LEAST_SECURE_SITES:
        raise RequestError(
            f"--secure {mode} needs {LEAST_SECURE_SITES} sites: a sum of fewer hides none", advice="Raise --sites"
        )
    if codec != "float32":
        raise RequestError(f"--secure {mode} goes with --codec float32 only", advice="Leave --codec out")


def _parse_baselines(text: str) -> tuple[str, ...]:
    from deploy.demo.compare import KNOWN

    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if words in ((), ("none",)):
        return ()
    for word in words:
        if word not in KNOWN:
            raise RequestError(f"--baselines {word!r} does not exist", advice=f"Use {', '.join(KNOWN)}, or none")
    return words
