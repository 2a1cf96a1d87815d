"""What a consortium's operator sees: every admitted site, alarms, the broker as the coordinator has it, the journal."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.core import inputs as i
from coordinator.record.journal_file import is_in_use
from coordinator.record.overview import Overview, look_at_journal
from deploy.console import format_moment
from deploy.notify.notices import DAY, list_coordinator_notices
from deploy.page.polling import Poller
from deploy.page.sheet import Section, Sheet, make_list
from deploy.report.html import NOTHING, make_definitions, make_table
from messages import kinds
from messages.bus.amqp.tls import find_end_of_login
from messages.chain import Entry
from messages.ground.errors import KonsilError, Unreachable
from messages.ground.operating.exposition import MetricsSettings
from messages.ground.units import human_bytes
from messages.trust.register import KeyEntry
from messages.trust.settings import load_trust

LOOK_EVERY = 1.5
RUNBOOKS = {
    "disk": "docs/runbooks.md#konsillittlespace",
    "certificate": "docs/runbooks.md#konsilcertificateendssoon",
    "journal": "docs/reliability.md",
    "paused": "docs/reliability.md",
    "absent": "docs/runbooks.md#konsilsiteabsent",
}
"""Kind of alarm → the page that says what to do."""

Figures = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels) → value."""


@dataclass
class SitesSeen:
    """What the journal tells of each site: when it last wrote, and with which version. Grows with the entries."""

    at: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def see_step(self, entry: Entry, given: i.AnyInput) -> None:
        """One step of the journal."""
        if not isinstance(given, i.Received):
            return
        event = given.event
        self.at[event.sender] = entry.time
        body = event.body
        if isinstance(body, kinds.Joined | kinds.WeightsReady) and (version := body.platform.versions.get("konsil")):
            self.versions[event.sender] = version


@dataclass(frozen=True, slots=True)
class Consortium:
    """One look: the journal, the sites in it, and whether a coordinator works on it."""

    overview: Overview
    sites: SitesSeen
    runs: bool


class OperatorFace:
    """The page of a consortium, beside its coordinator. It opens no connection with the broker."""

    def __init__(self, config: CoordinatorConfig, file: Path) -> None:
        self.name = f"operator of {config.coordinator.consortium}"
        self._config, self._file = config, file
        self._known: tuple[object, Overview, SitesSeen] | None = None
        self._journal: Poller[Consortium] = Poller(self._look_at_journal, LOOK_EVERY)
        self._figures: Poller[Figures] = Poller(lambda: read_figures(config.metrics), LOOK_EVERY)
        self._heard_at: float | None = None

    def start(self) -> None:
        self._journal.start()
        if self._config.metrics.listen is not None:
            self._figures.start()

    def close(self) -> None:
        self._journal.close()
        self._figures.close()

    def find_file(self, path: str) -> tuple[str, str] | None:
        return None

    def find_sheet(self, path: str, chosen: Sequence[str], now: float) -> Sheet | None:
        """`/`."""
        if path != "/":
            return None
        seen = self._journal.found
        if seen is None:
            lead = "The journal was not read yet"
            return Sheet(self._config.coordinator.consortium, lead, (), None, tuple(self._trouble(None)))
        sections = (
            Section("Alarms", self._alarms(seen, now)),
            Section("Sites", self._sites(seen, now)),
            Section("Experiments", make_list(list(seen.overview.experiments.values()))),
            Section("Broker", self._broker()),
            Section("Journal", self._describe_journal(seen)),
            Section("Set aside", self._aside(seen)),
        )
        return Sheet(self._config.coordinator.consortium, self._lead(seen), sections, self._sign(seen),
                     tuple(self._trouble(seen)))  # fmt: skip

    def _sign(self, seen: Consortium) -> float | None:
        """When the coordinator last gave a sign: its figures, where it serves them; else its lock on the journal."""
        if self._config.metrics.listen is not None:
            return self._figures.found_at
        if seen.runs:
            self._heard_at = self._journal.found_at
        return self._heard_at

    def _lead(self, seen: Consortium) -> str:
        one, phases = seen.overview, list(seen.overview.phases.values())
        open_ = sum(phase not in ("complete", "failed", "aborted") for phase in phases)
        runs = "the coordinator runs" if seen.runs else "no coordinator runs"
        return f"{runs}; {open_} of {len(phases)} experiments not over; term {one.term}, {one.entries} entries"

    def _trouble(self, seen: Consortium | None) -> Iterator[str]:
        if self._journal.trouble:
            yield f"The journal cannot be read: {self._journal.trouble}"
        if seen is not None and not seen.runs:
            yield "No coordinator works on this journal: rounds neither open nor close until one does"
        if self._config.metrics.listen is None:
            yield f"How sites and broker are is not known: write metrics.listen into {self._file.name}"
        elif self._figures.trouble:
            yield f"The coordinator's figures cannot be read: {self._figures.trouble}"

    def _alarms(self, seen: Consortium, now: float) -> str:
        notices = list_coordinator_notices(
            seen.overview.as_plain(),
            self._liveness(),
            absent_after=self._config.notify.absent_after,
            disk_below=self._config.notify.disk_below,
            certificate_ends=find_end_of_login(self._config.broker),
            now=now,
        )
        figures = self._figures.found or {}
        rows = [
            [one.subject, one.text, RUNBOOKS.get(one.key.partition(" ")[0], NOTHING)] for one in notices if not one.past
        ]
        for name, (words, runbook) in BROKER_ALARMS.items():
            if figures.get((name, ())) == 1.0:
                rows.append([words, "The coordinator waits until it is over", runbook])
        head = ["alarm", "what to do", "runbook"]
        if rows:
            return make_table("Open now", head, rows, words={1, 2})
        if self._figures.found is None:
            return "<p>None of disk, journal or certificate is open. Of sites and broker nothing is known.</p>"
        return "<p>No alarm is open.</p>"

    def _liveness(self) -> dict[str, str]:
        return {
            dict(labels)["site"]: dict(labels)["liveness"]
            for (name, labels), value in (self._figures.found or {}).items()
            if name == "konsil_site_liveness" and value == 1.0
        }

    def _sites(self, seen: Consortium, now: float) -> str:
        liveness, keys = self._liveness(), self._keys()
        rows = []
        for site in self._config.coordinator.sites:
            at = seen.sites.at.get(site)
            rows.append(
                [
                    site,
                    liveness.get(site, "not known"),
                    format_moment(at) if at is not None else "never",
                    seen.sites.versions.get(site, NOTHING),
                    tell_days([one for one in keys if one.name == site], now),
                ]
            )
        head = ["site", "is", "last wrote", "version", "key"]
        return make_table("Every admitted site", head, rows, words={1, 2, 3, 4})

    def _keys(self) -> Sequence[KeyEntry]:
        trust, one = self._config.trust, self._config.coordinator
        if trust is None:
            return ()
        try:
            return load_trust(trust, one.consortium, "coordinator").register.keys
        except (KonsilError, OSError):
            return ()

    def _broker(self) -> str:
        figures = self._figures.found
        if figures is None:
            return ""
        pairs = [
            (words, f"{value:g}") for name, words in SHOWN_FIGURES if (value := figures.get((name, ()))) is not None
        ]
        return make_definitions(pairs)

    def _describe_journal(self, seen: Consortium) -> str:
        one = seen.overview
        pairs = [
            ("Folder", str(one.folder)),
            ("Entries", str(one.entries)),
            ("Term", str(one.term)),
            ("Holds", one.problem or "every entry"),
            ("Free on its disk", human_bytes(one.free)),
        ]
        end = find_end_of_login(self._config.broker)
        if end is not None:
            pairs.append(("Certificate for the broker", f"{max(0, int((end - time.time()) / DAY))} days left"))
        return make_definitions(pairs)

    def _aside(self, seen: Consortium) -> str:
        if not seen.overview.aside:
            return ""
        told = [f"{reason}: {count}" for reason, count in seen.overview.aside.most_common()]
        return make_list(told) + make_list(seen.overview.last_aside)

    def _look_at_journal(self) -> Consortium:
        """Read the journal where it has changed."""
        folder = self._config.coordinator.state
        mark = tuple(_stamp_of(folder / name) for name in ("journal.sqlite", "journal.sqlite-wal"))
        if self._known is None or self._known[0] != mark:
            sites = SitesSeen()
            self._known = (mark, look_at_journal(folder, sites.see_step), sites)
        _mark, overview, sites = self._known
        return Consortium(overview, sites, is_in_use(folder))


BROKER_ALARMS = {
    "konsil_broker_blocked": ("the broker takes no messages (disk or memory)", "docs/runbooks.md#konsilbrokerblocked"),
    "konsil_disk_full": ("the journal waits for space on its disk", "docs/runbooks.md#konsildiskfull"),
    "konsil_mark_missing": ("our mark on uplink is not back: no timer fires", "docs/runbooks.md#konsilmarkmissing"),
}
SHOWN_FIGURES = (
    ("konsil_broker_connected", "Connected (1: yes)"),
    ("konsil_broker_blocked", "Blocked (1: yes)"),
    ("konsil_queue_inputs", "Messages that wait for the coordinator"),
    ("konsil_messages_malformed_total", "Messages that are no event"),
    ("konsil_events_set_aside_total", "Events set aside"),
)


def tell_days(keys: Sequence[KeyEntry], now: float) -> str:
    """How long the latest good key of a site holds."""
    if not keys:
        return "none registered"
    good = [one for one in keys if one.is_good(now)]
    if not good:
        return "revoked or over"
    return f"{int((max(one.until for one in good) - now) / DAY)} days left"


def _stamp_of(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def read_figures(metrics: MetricsSettings) -> Figures:
    """All figures of the running coordinator; Unreachable where it does not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        # The figures are of this machine: no http_proxy of its environment is asked for them.
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with straight.open(f"http://{metrics.listen}/metrics", timeout=5.0) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except (OSError, ValueError) as error:
        raise Unreachable(f"no answer ({error})", where=str(metrics.listen)) from None
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
        for family in families
        for sample in family.samples
    }
