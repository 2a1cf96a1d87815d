"""The demo with real training, a real broker and real processes: what it leaves, and what it leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import e2e_tiny_demo
import psutil
import pytest
from brokers import PATIENCE, eventually, need_broker
from e2e_finished import Finished, finish

from coordinator import config as coordinator_config
from deploy.session import profile as profiles
from messages import chain
from messages.log.exports import read_entries
from messages.trust.settings import load_trust
from site_agent import config as site_config

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.torch]
PROGRAM = [sys.executable, e2e_tiny_demo.__file__]


def konsil(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_the_json_object_holds_what_a_program_needs(finished: Finished) -> None:
    result = finished.result
    assert result["sites"] == ["site-a", "site-b", "site-c"]
    assert result["rounds"] == 2
    assert set(result["dice"]["federated"]["regions"]) == {"WT", "TC", "ET"}
    for mean in (
        result["dice"]["federated"]["mean"],
        result["dice"]["pooled"]["mean"],
        result["dice"]["alone"]["mean"],
    ):
        assert 0 <= mean <= 1
    gain = result["dice"]["alone"]["gain"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["n"] == result["dice"]["federated"]["n"]


def test_the_model_loads_and_is_the_one_that_was_announced(finished: Finished) -> None:
    from nets.export import load_model

    _net, metadata = load_model(Path(finished.result["model"]))
    assert metadata["model_digest"] == finished.result["model_digest"]
    assert metadata["experiment"] == finished.result["experiment"]


def test_the_report_names_the_result_and_draws_the_curves(finished: Finished) -> None:
    html = Path(finished.result["report"]).read_text()
    assert f"mean test Dice {finished.result['dice']['federated']['mean']:.3f}" in html
    assert html.count("<svg") == 5
    assert finished.result["model_digest"] in html


def test_the_log_verifies_and_replays_from_the_kept_updates(finished: Finished) -> None:
    verified = konsil("audit", "verify", finished.result["log"])
    assert verified.returncode == 0
    assert "witnessed by" in verified.stdout
    replayed = konsil(
        "audit", "replay", finished.result["experiment"], "--journal", finished.out / "run" / "coordinator"
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "2 rounds (2 recomputed)" in replayed.stdout


def test_a_changed_byte_in_the_log_is_found_and_named(finished: Finished, tmp_path: Path) -> None:
    content = bytearray(Path(finished.result["log"]).read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / "changed.konsil-log"
    changed.write_bytes(content)
    told = konsil("audit", "verify", changed)
    assert told.returncode == 1
    assert any(place in told.stderr + told.stdout for place in ("entry", "record", "journal number"))
    assert "Traceback" not in told.stderr


def test_the_log_holds_every_round(finished: Finished) -> None:
    entries = list(chain.verify(read_entries(Path(finished.result["log"]))))
    assert {entry.experiment for entry in entries} == {finished.result["experiment"]}
    assert [entry.index for entry in entries] == list(range(1, len(entries) + 1))


def test_everybody_logs_in_by_certificate_and_has_a_key_in_the_register(finished: Finished) -> None:
    run = finished.out / "run"
    coordinator = coordinator_config.read_config(run / "coordinator.toml")
    configs = {"coordinator": coordinator, "dr-a": profiles.load_profile(run / "profile.toml")}
    configs |= {site: site_config.read_config(run / f"{site}.toml") for site in coordinator.coordinator.sites}
    assert {one.broker.login for one in configs.values()} == {"certificate"}
    trusts = {name: one.trust and load_trust(one.trust, "demo", name) for name, one in configs.items()}
    assert len({trust.key.public for trust in trusts.values() if trust}) == len(configs)
    assert not list(run.rglob("*password*"))


def test_images_and_the_brokers_data_are_gone_and_configuration_and_logs_stay(finished: Finished) -> None:
    assert not (finished.out / "data").exists()
    assert not (finished.out / "run" / "broker").exists()
    assert (finished.out / "run" / "site-a.toml").exists()
    assert (finished.out / "run" / "logs" / "coordinator.log").exists()


def test_secure_rounds_come_through_a_real_broker_and_replay(tmp_path: Path) -> None:
    need_broker()
    made = finish(tmp_path / "out", "--secure")
    out, result = made.out, made.result
    assert (result["rounds"], len(result["sites"])) == (2, 3)
    assert result["dice"]["federated"]["n"] == 12, "the pooled scores of all sites"
    assert result["dice"]["federated"]["sites"] == {}
    replayed = konsil("audit", "replay", result["experiment"], "--journal", out / "run" / "coordinator")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "2 rounds (2 recomputed)" in replayed.stdout


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    errors: Path

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_for(self, holds: Callable[[], bool], what: str, deadline: float = PATIENCE) -> None:
        end = time.monotonic() + deadline
        while not holds():
            assert self.process.poll() is None, f"ended before {what}: {self.errors.read_text()[-2000:]}"
            assert time.monotonic() < end, f"not within {deadline:.0f} s: {what}"
            time.sleep(0.05)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A demo whose rounds are slow."""
    need_broker()
    errors = tmp_path / "stderr"
    with errors.open("wb") as out:
        process = subprocess.Popen([*PROGRAM, str(tmp_path / "out"), "--null"], stdout=out, stderr=out)
    yield Running(process, errors)
    process.kill()
    process.wait()


def alive(several: list[psutil.Process]) -> list[str]:
    """Those that still run; a zombie has ended and waits for its parent."""
    found = []
    for one in several:
        try:
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(one.cmdline())[:200])
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_stopped_in_training_leaves_no_process(running: Running, number: signal.Signals) -> None:
    running.wait_for(lambda: "training" in running.errors.read_text(), "training")
    family = running.family()
    assert len(family) > 5  # coordinator, agent, trainer, keeper, epmd, the Erlang VM
    running.process.send_signal(number)
    expected = {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert running.process.wait(PATIENCE) == expected
    # After SIGKILL the broker's keeper notices within half a second.
    eventually(lambda: not alive(family), what="the end of all that it started")


def test_a_demo_that_is_stopped_at_its_very_start_leaves_no_process(running: Running) -> None:
    running.wait_for(lambda: len(running.family()) >= 3, "the first processes")
    family = running.family()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 143
    eventually(lambda: not alive(family), what="the end of all that it started")


def test_a_service_that_dies_is_named_with_its_log(running: Running) -> None:
    running.wait_for(lambda: "training" in running.errors.read_text(), "training")
    site = next(one for one in running.family() if "site_agent" in one.cmdline() and "--config" in one.cmdline())
    site.kill()
    assert running.process.wait(PATIENCE) == 1
    last = running.errors.read_text().splitlines()[-1]
    assert "was killed by signal 9" in last
    assert "site-" in last
    assert ".log" in last


def test_a_folder_that_no_demo_wrote_is_left_alone(tmp_path: Path) -> None:
    need_broker()
    (tmp_path / "thesis.txt").write_text("years of work")
    told = konsil("demo", "--out", tmp_path)
    assert told.returncode == 2
    assert "not empty" in told.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--baselines", "pooled,best"], "best"),
        (["--sites", "0"], "--sites"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(arguments: list[str], word: str, tmp_path: Path) -> None:
    need_broker()
    told = konsil("demo", "--out", tmp_path / "out", *arguments)
    assert told.returncode == 2
    assert word in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()
