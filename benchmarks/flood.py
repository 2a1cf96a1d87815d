"""`python -m benchmarks.flood`: what one member's flood costs the others, the coordinator's memory and the disk.

One private RabbitMQ, one coordinator, three honest agents that train nothing, and a fourth login that sends signed
events at a stated rate, without confirms and from a process of its own. Beside it honest rounds are measured, then the
same rounds beside the same flood into another vhost of the same broker: that takes as much of the machine, and Konsil
has no part in it. A round's time is the time between two round-completes on the coordinator's clock.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack

from benchmarks import memory
from benchmarks.consortium import Bench, rehearsal, running
from benchmarks.raw_amqp import RawClient
from deploy.broker.definitions import Party, render_definitions
from deploy.broker.node import PrivateNode
from deploy.cli import requests
from deploy.demo.consortium import CONSORTIUM
from messages import kinds
from messages.ground.errors import KonsilError, WorkFailed
from messages.names import COORDINATOR
from messages.trust import signatures
from messages.trust.keys import SigningKey, read_key

ELSEWHERE = "elsewhere"
"""A second consortium on the same broker, in which nobody reads."""
STANDING = "flooded"
"""A paused experiment that the attacker is invited to."""
KILOBYTES = 1000
WITHIN_A_ROUND = 120.0
TOGETHER = 32
"""Messages that are sent at once."""
LARGE = frozenset({"rows"})
Body = dict[str, Any]


def _counts(train: int) -> Body:
    return {"found": train, "used": train, "train": train, "validation": 1, "test": 1}


_PLATFORM: Body = {"device_type": "cpu", "threads": 1, "versions": {}, "deterministic": True}
_ROWS = [{"WT": 0.5}] * 95_000


def _evaluated() -> Body:
    splits = {"validation": {"cases": len(_ROWS), "rows": _ROWS}}
    return {"scores": {"final": {"model_digest": "ab" * 32, "splits": splits}}}


def _wish() -> Body:
    return {"round": 1, "attempt": 1, "seal": "ab" * 32}


@dataclass(frozen=True, slots=True)
class Flood:
    """One kind of flood: what each message is, and how it is seen. `body` is made of the message's number."""

    kind: str
    body: Callable[[int], Body]
    experiment: str = "none"
    to: str = ""
    seq: bool = True


FLOODS = {
    "refused": Flood("joined", lambda n: {"cases": _counts(1), "platform": _PLATFORM}, "nowhere"),
    "accepted": Flood("joined", lambda n: {"cases": _counts(1 + n), "platform": _PLATFORM}, STANDING),
    "failures": Flood("declined", lambda n: {"reason": "out-of-memory"}, STANDING),
    "rows": Flood("evaluated", lambda n: _evaluated(), STANDING),
    "rubbish": Flood("joined", lambda n: {"wrong": n}, STANDING),
    "hello": Flood("hello", lambda n: {"versions": {}}, seq=False),
    "wishes": Flood("chunks-wanted", lambda n: _wish(), STANDING, COORDINATOR, seq=False),
    "progress": Flood("alive", lambda n: {"state": "idle"}, seq=False),
}  # fmt: skip


def _write(flood: Flood, sender: str, number: int, key: SigningKey) -> bytes:
    """One signed event, cheaper than `Author` writes it: the attacker is to be fast."""
    identity = sha256(f"{flood.experiment}|0|{flood.kind}|{sender}|{number}".encode()).hexdigest()[:32]
    payload = {
        "v": 1,
        "kind": flood.kind,
        "id": identity,
        "consortium": CONSORTIUM,
        "experiment": flood.experiment,
        "round": 0,
        "sender": sender,
        "attempt": str(number),
        "incarnation": 1,
        "seq": number if flood.seq else 0,
        "time": 0.0,
        "term": 0,
        "body": flood.body(number),
        "ext": {
            signatures.KEY: signatures.name_key(key.fingerprint),
            signatures.TO: flood.to or kinds.KINDS[flood.kind].queue,
        },
    }
    packed = msgpack.packb(payload)
    return bytes(msgpack.packb([packed, signatures.sign_payload(key, packed)]))


def attack(what: str, port: int, vhost: str, user: str, key_file: Path, rate: float) -> int:
    """Send so many a second until killed; the password is KONSIL_FLOOD. A line a second: messages and bytes so far."""
    flood, sent, size, own = FLOODS[what], 0, 0, read_key(key_file)
    began = told = time.monotonic()
    client = RawClient("127.0.0.1", port, vhost, user, os.environ["KONSIL_FLOOD"])
    key = ".".join([flood.kind, user, flood.experiment, *([flood.to] if flood.to else [])])
    first = time.time_ns() // 1000
    for number in itertools.count(first, TOGETHER):
        bodies = [_write(flood, user, number + more, own) for more in range(1 if what in LARGE else TOGETHER)]
        client.pour(key, bodies)
        sent, size = sent + len(bodies), size + sum(map(len, bodies))
        if (ahead := sent / rate - (time.monotonic() - began)) > 0:
            time.sleep(ahead)
        if time.monotonic() - told >= 1.0:
            told = time.monotonic()
            print(json.dumps([sent, size]), flush=True)
    return 0


@dataclass(frozen=True, slots=True)
class Beside:
    """What was seen beside a flood. `rate`, `bytes_a_second`: the attacker's."""

    seconds_a_round: float
    rate: float
    bytes_a_second: float
    peak: int
    journal: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of flood. `calm`: seconds a round without any; `idle`: the coordinator's bytes before it."""

    flood: str
    calm: float
    idle: int
    here: Beside
    elsewhere: Beside

    @property
    def ratio(self) -> float:
        """A round beside the flood over one beside the same flood elsewhere."""
        return self.here.seconds_a_round / self.elsewhere.seconds_a_round


class Scene:
    """A consortium under attack by the last of its sites, whose own agent takes no part."""

    def __init__(self, bench: Bench, rate: float, say: Callable[[str], None]) -> None:
        self._bench, self._rate, self._say = bench, rate, say
        self.attacker, self.honest = bench.sites[-1], bench.sites[:-1]
        self._run = 0

    def prepare(self) -> None:
        """A paused experiment that the attacker is invited to."""
        session = self._bench.session
        assert session is not None
        requests.start_experiment(session, rehearsal(STANDING, (self.attacker,), KILOBYTES, 1000), 60.0, lambda _: None)
        session.publish_event("experiment-pause", kinds.ExperimentPause(), STANDING)

    def rounds(self, count: int) -> float:
        """Median seconds a round of so many, the first left out."""
        self._run += 1
        ends = self._bench.run(rehearsal(f"run-{self._run}", self.honest, KILOBYTES, count), WITHIN_A_ROUND * count)
        return statistics.median(end - start for start, end in itertools.pairwise(ends))

    def beside(self, what: str, vhost: str, count: int, seconds: float) -> Beside:
        """Measure rounds beside a flood that lasts for so many seconds at least."""
        journal, began = self.journal_bytes(), time.monotonic()
        pids = {COORDINATOR: self._bench.pids()[COORDINATOR]}
        with memory.Sampler(pids) as sampler, self._attack(what, vhost) as told:
            time.sleep(2.0)
            median = self.rounds(count)
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            sent, size = told()
        lasted = time.monotonic() - began
        time.sleep(1.0)
        return Beside(
            median, sent / lasted, size / lasted, sampler.peaks[COORDINATOR], self.journal_bytes() - journal, lasted
        )

    @contextlib.contextmanager
    def _attack(self, what: str, vhost: str) -> Iterator[Callable[[], tuple[int, int]]]:
        command = [sys.executable, "-m", "benchmarks.flood", "--attack", what, "--vhost", vhost]
        ring = self._bench.consortium.ring
        assert ring is not None
        command += ["--port", str(self._bench.node.port), "--user", self.attacker, "--rate", str(self._rate)]
        command += ["--key", str(ring.key_file(self.attacker))]
        out = Path(self._bench.layout.logs, f"flood-{what}-{vhost}-{self._run}")
        with out.open("w") as file:
            secret = {**os.environ, "KONSIL_FLOOD": self._bench.consortium.passwords[self.attacker]}
            process = subprocess.Popen(command, env=secret, stdout=file)
        try:
            yield lambda: _last_line(out)
            if process.poll() is not None:
                raise WorkFailed(f"the attacker ended with status {process.returncode}", where=str(out))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def journal_bytes(self) -> int:
        """Bytes of the coordinator's journal, its write-ahead log included."""
        return sum(one.stat().st_size for one in self._bench.layout.out.rglob("journal.sqlite*"))

    def measure(self, what: str, count: int, seconds: float) -> Measured:
        """One kind of flood."""
        self._say(f"{what}: calm")
        calm = self.rounds(count)
        idle = memory.resident(self._bench.pids()[COORDINATOR])
        self._say(f"{what}: elsewhere")
        elsewhere = self.beside(what, ELSEWHERE, count, 0.0)
        self._say(f"{what}: here")
        here = self.beside(what, CONSORTIUM, count, seconds)
        return Measured(what, calm, idle, here, elsewhere)


def _last_line(file: Path) -> tuple[int, int]:
    lines = file.read_text().splitlines()
    sent, size = json.loads(lines[-1]) if lines else (0, 0)
    return sent, size


def add_vhost(bench: Bench) -> None:
    """Have the broker of a bench that has not started hold a second consortium."""
    definitions = bench.consortium.make_definitions()
    parties = [Party(COORDINATOR, COORDINATOR, bench.consortium.passwords[COORDINATOR])]
    parties += [Party(site, "site", bench.consortium.passwords[site]) for site in bench.sites]
    for section, rows in render_definitions(ELSEWHERE, parties, bench.consortium.sizes).items():
        if isinstance(rows, list) and section != "users":
            definitions[section] += rows
    bench.node = PrivateNode(bench.layout.broker, definitions=definitions)


def tell(one: Measured) -> str:
    """One row of the table."""
    grown = one.here.journal / 2**20
    return (
        f"| {one.flood} | {one.here.rate:,.0f}/s, {one.here.bytes_a_second / 1e6:.1f} MB/s"
        f" | {(one.here.peak - one.idle) / 1e6:.0f} MB | {one.calm:.2f} | {one.elsewhere.seconds_a_round:.2f}"
        f" | {one.here.seconds_a_round:.2f} | {one.ratio:.2f} | {grown:.1f} MiB in {one.here.seconds:.0f} s |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.flood", description=__doc__.split("\n\n")[0])
    parser.add_argument("--floods", nargs="*", default=list(FLOODS), choices=list(FLOODS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="that each flood lasts at least")
    parser.add_argument("--rate", type=float, default=1000.0, help="most messages a second that the attacker sends")
    parser.add_argument("--json", action="store_true")
    for hidden in ("--attack", "--vhost", "--user"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--key", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.attack:
        return attack(options.attack, options.port, options.vhost, options.user, options.key, options.rate)

    def say(text: str) -> None:
        print(f"benchmark: {text}", file=sys.stderr, flush=True)

    if not options.json:
        print("| flood | the attacker's rate | above idle | calm, s | elsewhere, s | here, s | ratio | journal |")
        print("|---|---|---|---|---|---|---|---|")
    try:
        with running(4, KILOBYTES * 1000, tls=False, say=say, before=add_vhost) as bench:
            scene = Scene(bench, options.rate, say)
            scene.prepare()
            scene.rounds(3)
            for what in options.floods:
                one = scene.measure(what, options.rounds, options.seconds)
                print(json.dumps(asdict(one) | {"ratio": one.ratio}) if options.json else tell(one), flush=True)
    except KonsilError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
