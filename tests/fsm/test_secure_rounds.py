"""Secure rounds from end to end on the bus in memory: the sum is the plain one in every bit, nothing else leaves."""

from __future__ import annotations

import numpy as np
import pytest
from coordinator_kit import plain
from secure_consortium import MODEL, add_up, count_training, digests_of, run_secure, start_secure
from signed_consortium import THREE
from virtual_consortium import CASES, VirtualConsortium

from messages import kinds
from messages.bus.base import Body, Confirm
from messages.bus.memory import MemoryBus
from messages.envelope import decode_event
from messages.experiment import Experiment
from messages.secure.encoding import quantise_tensor
from nets.digest import arrays_digest
from site_agent.training.null import round_addend

LEFT: dict[str, list[tuple[str, bytes]]] = {}
"""Site → key and bytes of all that it has published."""


class TappedBus(MemoryBus):
    """Notes what each site publishes."""

    def publish(self, key: str, body: Body) -> Confirm:
        whole = body if isinstance(body, bytes) else b"".join(bytes(part) for part in body)
        LEFT.setdefault(key.split(".")[1], []).append((key, whole))
        return super().publish(key, body)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> VirtualConsortium:
    """Two rounds of three sites."""

    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium)
        consortium.until("experiment-complete", 7200.0)

    LEFT.clear()
    return run_secure(tmp_path_factory.mktemp("calm"), work, join=TappedBus)


def test_the_model_of_two_secure_rounds_is_the_plain_fixed_point_sum_in_every_bit(calm: VirtualConsortium) -> None:
    first = add_up(MODEL, 1)
    assert digests_of(calm) == [arrays_digest(first), arrays_digest(add_up(first, 2))]


def test_no_update_loss_or_score_of_a_single_site_leaves_it_in_a_secure_round(calm: VirtualConsortium) -> None:
    assert {*THREE} <= LEFT.keys()
    assert isinstance(calm, VirtualConsortium)
    seed = Experiment.model_validate(plain()).seed
    for site in THREE:
        trained = {name: array + round_addend(seed, site, 1) for name, array in MODEL.items()}
        telling = [array.tobytes()[:64] for array in trained.values()]
        words = np.empty(MODEL["conv.weight"].size, dtype=np.uint32)
        total = sum(map(count_training, (CASES[one] for one in THREE)))
        share = count_training(CASES[site]) / total
        quantise_tensor(trained["conv.weight"], MODEL["conv.weight"], share=share, shrink=1.0, out=words)
        telling.append(words.tobytes()[:64])
        for key, body in LEFT[site]:
            assert not [one for one in telling if one in body], f"{site}: {key}"
            if not key.startswith("update-chunk"):
                said = decode_event(body).body
                assert not isinstance(said, kinds.Evaluated), key
                assert getattr(said, "loss", None) is None, key
                assert getattr(said, "validation", None) is None, key


def test_the_chunks_that_leave_are_those_of_the_one_sealed_masked_update(calm: VirtualConsortium) -> None:
    assert isinstance(calm, VirtualConsortium)
    for site in THREE:
        ready = [decode_event(body).body for key, body in LEFT[site] if key.startswith("weights-ready")]
        seals = {(one.transfer.round, one.transfer.seal) for one in ready if isinstance(one, kinds.WeightsReady)}
        assert sorted(number for number, _seal in seals) == [1, 2]
        manifests = {one.transfer.manifest for one in ready if isinstance(one, kinds.WeightsReady)}
        assert {tuple(spec.dtype for spec in one.tensors) for one in manifests} == {("int32", "int64")}


def test_secrets_and_plain_files_are_gone_with_the_rounds(calm: VirtualConsortium) -> None:
    for site in THREE:
        state = calm.folder / site
        assert not [*state.rglob("*.trained"), *state.rglob("*.words"), *state.rglob("*.update")]
        assert calm.agents[site].spool.state == state


def test_the_final_scores_are_those_of_all_sites_together_and_of_no_single_one(calm: VirtualConsortium) -> None:
    complete = calm.of("experiment-complete")[-1][1].body
    assert isinstance(complete, kinds.ExperimentComplete)
    assert complete.test is not None
    assert complete.test.cases == sum(max(1, CASES[site] // 5) for site in THREE)
    told = [key for site in THREE for key, _body in LEFT[site] if key.startswith(("secure-figures", "evaluated"))]
    assert {key.split(".")[0] for key in told} == {"secure-figures"}
