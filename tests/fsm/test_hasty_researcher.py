"""A researcher who asks for much, or describes much, costs the others a bounded amount."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from brokers import PATIENCE, eventually
from coordinator_kit import CONSORTIUM, MANIFEST, SITES, plain
from coordinator_rig import Consortium

from coordinator.loop.file_checks import MOST_FILE_BYTES, check_file
from coordinator.loop.kept_models import MODELS_A_DAY
from coordinator.wire.outgoing import Shipment, _Waiting
from messages import codec, kinds
from messages.envelope import Author
from messages.ground.clock import SystemClock
from messages.reasons import Reason
from messages.tensors.layout import Manifest, TensorSpec
from nets.architectures.tensors import MOST_TENSORS
from site_agent.loop import forecasts
from site_agent.loop.forecasts import Forecasts

EVALUATED = {"evaluation": {"select_by": "last"}}


def described(count: int, letters: int) -> dict[str, Any]:
    """A file for a trainer of the sites' own, with so many tensors."""
    tensors = [{"name": f"t{n:05d}".ljust(letters, "x"), "shape": [1]} for n in range(count)]
    task = {"kind": "regression", "channels": ["a"], "quantity": "outcome"}
    net, training = {"name": "Tensors", "tensors": tensors}, {"trainer": "linear", "local_steps": 1}
    return plain(task=task, net=net, training=training, **EVALUATED)


@pytest.mark.parametrize("file", [described(MOST_TENSORS, 200), plain(purpose="x" * (4 * 2**20 - 1500))])
def test_a_file_that_no_event_can_repeat_is_refused_at_once(consortium: Consortium, file: dict[str, Any]) -> None:
    consortium.start()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=file))
    refused = consortium.until("experiment-refused").body
    assert isinstance(refused, kinds.ExperimentRefused)
    assert refused.reason is Reason.INVALID_EXPERIMENT
    assert f"at most {MOST_FILE_BYTES}" in refused.mistakes


def test_whatever_a_file_describes_that_is_taken_fits_into_what_a_site_is_told() -> None:
    file = described(MOST_TENSORS, 6)
    for entry in file["net"]["tensors"]:
        del entry["shape"]
    event = Author(CONSORTIUM, "dr-a").write_event(
        "experiment-start", kinds.ExperimentStart(experiment=file), time=0.0, experiment="exp-1"
    )
    found = check_file(event)
    assert found is not None
    assert found.reason is None, found.mistakes
    accepted = kinds.ExperimentAccepted(
        experiment=found.file, digest=found.digest, researcher="dr-a", original=event.raw, enrol_within=1.0
    )
    specs = [TensorSpec(name=f"t{n:05d}", shape=(), dtype="float32") for n in range(MOST_TENSORS)]
    sent = kinds.Transfer(round=1, seal="ab" * 32, manifest=Manifest(tensors=tuple(specs), chunk_bytes=2**20))
    told = len(codec.pack(accepted.as_plain())) + 2 * len(codec.pack(sent.as_plain()))
    assert told < codec.MAX_EVENT_BYTES - 2**16


def test_files_to_be_checked_go_to_the_sites_once_a_second_and_not_when_they_are_read_back(
    consortium: Consortium,
) -> None:
    shell = consortium.start().shell

    def checked() -> int:
        return sum(one.kind == "experiment-checked" for one in consortium.heard)

    def ask(count: int, file: dict[str, Any]) -> None:
        for n in range(count):
            body = kinds.ExperimentCheck(experiment=file, nonce=f"{n:032x}")
            event = Author(CONSORTIUM, "dr-a").write_event(
                "experiment-check", body, time=0.0, attempt=f"c{n}{len(file)}"
            )
            consortium.researcher.publish(event.key, event.raw)

    eventually(lambda: not shell.parts.gate.closed, what="the coordinator reads")
    ask(200, plain())
    ask(3, {"a": "x" * MOST_FILE_BYTES})
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(sites=[*SITES, "site-z"])))
    consortium.until("experiment-refused")
    assert 3 <= checked() < 30
    before = checked()
    shell.parts.gate.closed = True
    ask(1, plain(seed=4))
    consortium.say("experiment-start", kinds.ExperimentStart(experiment={}), 2)
    consortium.until("experiment-refused", 2)
    assert checked() == before


def test_a_site_looks_at_one_file_after_the_other_on_one_thread() -> None:
    looks, free, threads = Forecasts(SystemClock()), threading.Event(), set[str]()

    def look() -> None:
        assert free.wait(PATIENCE)
        threads.add(f"{threading.get_ident()}")

    taken = [looks.look_later(look) for _ in range(100)]
    assert forecasts.MOST <= sum(taken) <= forecasts.MOST + 1
    free.set()
    eventually(lambda: not looks._at_work, what="all are looked at")
    assert len(threads) == 1
    assert looks.look_later(look)
    eventually(lambda: not looks._at_work, what="another one")


def test_a_kept_model_is_sent_three_times_a_day_for_the_asking(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    site = consortium.sites[0]

    def lose(number: int, buffer: bytearray) -> bytearray:
        if number == 2:
            site.lost_chunks = {0}
        return buffer

    site.spoil = lose
    consortium.say(
        "experiment-start", kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}, **EVALUATED))
    )
    consortium.until("round-complete")
    refused = list[str]()
    inbox = consortium.researcher.subscribe("inbox.dr-a", lambda one: refused.append(one.key))
    for n in range(2, 20):
        wanted = Author(CONSORTIUM, "dr-a").write_event(
            "model-wanted", kinds.ModelWanted(round=1), time=0.0, experiment="exp-1", attempt=n
        )
        consortium.researcher.publish(wanted.key, wanted.raw)
    consortium.until("model-ready", MODELS_A_DAY)
    eventually(lambda: sum(key.startswith("refused.") for key in refused) == 18 - MODELS_A_DAY, what="the others")
    inbox.cancel()
    assert sum(one.kind == "model-ready" for one in consortium.heard) == MODELS_A_DAY


def test_models_that_somebody_asked_for_wait_behind_those_of_rounds_and_take_turns() -> None:
    waiting = _Waiting(SystemClock())
    for name, owner in [("1", "dr-a"), ("2", "dr-a"), ("3", "dr-b"), ("4", ""), ("5", "dr-a")]:
        waiting.put((Shipment("model-chunk", f"exp-{name}", 1, "ab" * 32, MANIFEST, owner=owner), []))
    assert [waiting.get()[0].experiment for _ in range(5)] == ["exp-4", "exp-1", "exp-3", "exp-2", "exp-5"]
    waiting.put((Shipment("model-chunk", "exp-6", 1, "ab" * 32, MANIFEST, owner="dr-a"), []))
    waiting.put(None)
    assert waiting.get() is None
