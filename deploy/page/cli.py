"""`konsil page` and `konsil site page`: which page, where it listens, who may open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import note_line
from deploy.session.profile import ProfileOption, load_profile
from deploy.site.options import DEFAULT, ConfigOption

if TYPE_CHECKING:
    from deploy.page.serving import Place
    from deploy.page.sheet import Face

Listen = Annotated[str, typer.Option("--listen", help="IP address; any but this machine's own needs TLS and logins.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")]
Cert = Annotated[Path | None, typer.Option("--cert", help="Certificate (PEM) with the page's names.")]
Key = Annotated[Path | None, typer.Option("--key", help="Its private key (PEM).")]
Logins = Annotated[
    Path | None, typer.Option("--logins", help="File of logins and passwords; without it a link counts.")
]
AddLogin = Annotated[
    str | None,
    typer.Option("--add-login", metavar="NAME", help="Ask for a password, write it into --logins, and stop."),
]


def app(
    profile: ProfileOption = None,
    coordinator: Annotated[
        Path | None, typer.Option("--coordinator", help="coordinator.toml: the operator's page, on its machine.")
    ] = None,
    listen: Listen = "127.0.0.1",
    port: Port = 8470,
    cert: Cert = None,
    key: Key = None,
    logins: Logins = None,
    add_login: AddLogin = None,
) -> None:
    """Show the consortium's experiments in a browser, live; with --coordinator its sites, alarms, broker and journal.

    A researcher's, an auditor's or a viewer's profile. The page only shows. It prints a link that works once.

    Example: konsil page
    """
    place = _place(listen, port, cert, key, logins)
    if add_login is not None:
        _write_login(place, add_login)
        return
    if coordinator is not None:
        _serve_operator(coordinator, place)
    else:
        _serve_researcher(profile, place)


def site_page(
    config: ConfigOption = DEFAULT,
    allow_orders: Annotated[
        bool, typer.Option("--allow-orders", help="Let who opens it approve, decline, pause, resume and drain.")
    ] = False,
    listen: Listen = "127.0.0.1",
    port: Port = 8471,
    cert: Cert = None,
    key: Key = None,
    logins: Logins = None,
    add_login: AddLogin = None,
) -> None:
    """Show this site in a browser, live: what runs, what awaits approval, its data sets, what left.

    It only shows, unless --allow-orders. Each order asks a second time, and is logged with the login that gave it.

    Example: konsil site page
    """
    place = _place(listen, port, cert, key, logins)
    if add_login is not None:
        _write_login(place, add_login)
        return
    from deploy.page.hospital import HospitalFace
    from deploy.page.ordering import SiteOrders
    from deploy.page.serving import serve_face
    from site_agent.config import read_config

    site = read_config(config)
    face = HospitalFace(site, config)

    def start() -> Face:
        face.start()
        return face

    serve_face(start, place, (lambda _face: SiteOrders(site, face)) if allow_orders else None)


def _serve_operator(file: Path, place: Place) -> None:
    from coordinator.config import read_config
    from deploy.page.operator import OperatorFace
    from deploy.page.serving import serve_face

    face = OperatorFace(read_config(file), file)

    def start() -> Face:
        face.start()
        return face

    serve_face(start, place)


def _serve_researcher(path: Path | None, place: Place) -> None:
    from deploy.page.consortium import ConsortiumFollower, FollowingThread
    from deploy.page.researcher import ResearcherFace
    from deploy.page.serving import serve_face
    from deploy.session.connection import BrokerSession, LineState, connect_rabbit
    from messages.ground.errors import RequestError

    profile = load_profile(path)
    if profile.role == "coordinator":
        raise RequestError(
            "this is the coordinator's own profile",
            where=str(path or "profile"),
            advice="Use a researcher's, an auditor's or a viewer's, or --coordinator coordinator.toml",
        )

    def start() -> Face:
        line = LineState()
        session = BrokerSession(connect_rabbit(profile, line), profile, line)
        follower = ConsortiumFollower(session)
        follower.listen_from_start()
        thread = FollowingThread(follower)

        def close() -> None:
            thread.close()
            session.bus.close()

        return ResearcherFace(f"{profile.role} {profile.name}", follower, close, lambda: thread.failed)

    serve_face(start, place)


def _place(listen: str, port: int, cert: Path | None, key: Path | None, logins: Path | None) -> Place:
    from deploy.page.serving import Place

    return Place(listen, port, cert, key, logins)


def _write_login(place: Place, name: str) -> None:
    from deploy.page.gate import add_login
    from messages.ground.errors import ConfigError

    if place.logins is None:
        raise ConfigError("no file takes the login", where="--add-login", advice="Name it with --logins FILE")
    add_login(place.logins, name, typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    note_line(f"{place.logins}: {name} may log in")
