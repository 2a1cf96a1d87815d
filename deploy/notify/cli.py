"""`konsil site notify` and `konsil coordinator notify`: word when nobody looks, run now and then by a timer."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

import typer

from deploy.console import JsonOption, emit_json, note_line, say_line
from deploy.notify.memory import read_told, write_told
from deploy.notify.notices import (
    OF_AGENT,
    OF_FIGURES,
    OF_JOURNAL,
    Notice,
    list_coordinator_notices,
    list_site_notices,
)
from deploy.notify.sending import send_notice
from messages.ground.errors import ConfigError, KonsilError
from messages.ground.operating.exposition import MetricsSettings
from messages.ground.operating.notify import NotifySettings

SITE, COORDINATOR = Path("/etc/konsil/site.toml"), Path("/etc/konsil/coordinator.toml")
TestOption = Annotated[bool, typer.Option("--test", help="Send one word to try the way, and nothing else.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration with a section `notify`.")]


def notify_site(config: ConfigOption = SITE, test: TestOption = False, json_: JsonOption = False) -> None:
    """Send word of what this site's operator should know: once each, as [notify] in site.toml says.

    Approval awaited, an experiment over, paused, no agent, no broker, a full disk, a certificate that ends.
    A timer runs it every five minutes: systemctl enable --now konsil-site-notify.timer

    Example: konsil site notify --test
    """
    from messages.bus.amqp.tls import find_end_of_login
    from site_agent.config import read_config
    from site_agent.desk.control import ask_agent
    from site_agent.disk.room import room_left

    site = read_config(config)
    state = site.site.state
    try:
        status = None if test else ask_agent(state, {"do": "status"})
    except KonsilError:
        status = None
    notices = list_site_notices(
        status,
        site.site.name,
        free=room_left(state, site.limits.disk),
        disk_below=site.notify.disk_below,
        certificate_ends=find_end_of_login(site.broker),
        now=time.time(),
    )
    _tell_notices(site.notify, state, notices, OF_AGENT if status is None else (), config, test, json_)


def notify_coordinator(config: ConfigOption = COORDINATOR, test: TestOption = False, json_: JsonOption = False) -> None:
    """Send word of what the consortium's operator should know: once each, as [notify] in coordinator.toml says.

    An experiment complete, failed, aborted or paused, a site absent for long (with metrics.listen), a broken journal, a
    full disk, a certificate that ends. A timer runs it: systemctl enable --now konsil-coordinator-notify.timer
    """
    from coordinator.config import read_config
    from coordinator.record import overview
    from messages.bus.amqp.tls import find_end_of_login

    one = read_config(config)
    state = one.coordinator.state
    seen, liveness = overview.look_at_journal(state), read_liveness(one.metrics)
    hidden = (OF_JOURNAL if seen.problem else frozenset()) | (frozenset() if liveness else OF_FIGURES)
    notices = list_coordinator_notices(
        seen.as_plain(),
        liveness,
        absent_after=one.notify.absent_after,
        disk_below=one.notify.disk_below,
        certificate_ends=find_end_of_login(one.broker),
        now=time.time(),
    )
    _tell_notices(one.notify, state, notices, hidden, config, test, json_)


def read_liveness(metrics: MetricsSettings) -> dict[str, str]:
    """Site → how it is, by the running coordinator's figures; empty where there are none."""
    if metrics.listen is None:
        return {}
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(f"http://{metrics.listen}/metrics", timeout=10.0) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except (OSError, ValueError):
        return {}
    return {
        sample.labels["site"]: sample.labels["liveness"]
        for family in families
        for sample in family.samples
        if sample.name == "konsil_site_liveness" and sample.value == 1
    }


def _tell_notices(
    settings: NotifySettings,
    state: Path,
    notices: Iterable[Notice],
    hidden: Collection[str],
    config: Path,
    test: bool,
    json_: bool,
) -> None:
    if not settings.is_on:
        raise ConfigError("nobody is to get word", where=str(config), advice="Add [notify] with mail or command")
    if test:
        send_notice(settings, Notice("test", "a test", "If you read this, word from Konsil reaches you."))
        say_line("sent")
        return
    told = read_told(state)
    due = told.choose_due(notices, time.time(), hidden)
    failed: KonsilError | None = None
    sent: list[Notice] = []
    for one in due:
        try:
            send_notice(settings, one)
        except KonsilError as error:
            failed = error
            continue
        told.note_told(one)
        sent.append(one)
    write_told(state, told)
    if json_:
        emit_json({"sent": [{"key": one.key, "subject": one.subject} for one in sent], "due": len(due)})
    else:
        for one in sent:
            say_line(one.subject)
        if not due:
            note_line("Nothing new to tell")
    if failed is not None:
        raise failed
