"""What a training process may say: its words are counted and pooled, and leave the site."""

from __future__ import annotations

from typing import Any

import pytest

from messages.ground.errors import MalformedMessage
from site_agent.training.protocol import CaseRow, Evaluated, Prepared, RegionRow, SplitRows, decode_reply, encode_frame

PREPARED = Prepared(
    found=1,
    used=1,
    left_out={},
    train=1,
    validation=0,
    test=0,
    device="cpu",
    device_type="cpu",
    threads=1,
    versions={"torch": "2.13.0+cpu", "python": "3.13.0rc1+"},
    deterministic=True,
    fingerprint="",
)
ROW = RegionRow(dice=0.5, reference_empty=False, prediction_empty=False, hd95=2.0)


def reply(*, region: str = "WT", **row: Any) -> Evaluated:
    rows = [CaseRow.model_construct(case="a", failed=False, regions={region: ROW.model_copy(update=row)})]
    return Evaluated.model_construct(
        kind="evaluated",
        round=1,
        label="final",
        scores=[SplitRows.model_construct(split="test", cases=rows, hd95=True)],
    )


def test_what_a_trainer_says_comes_back_equal() -> None:
    assert decode_reply(encode_frame(PREPARED)[4:]) == PREPARED
    assert decode_reply(encode_frame(reply())[4:]) == reply()


@pytest.mark.parametrize(
    "wrong",
    [
        reply(dice=1.5),
        reply(dice=-0.1),
        reply(dice=float("nan")),
        reply(dice=None),
        reply(reference_empty=True),
        reply(dice=0.0, reference_empty=True),
        reply(hd95=float("inf")),
        reply(region="Mueller, Karl"),
        PREPARED.model_copy(update={"versions": {"torch": "Mueller, Karl"}}),
        PREPARED.model_copy(update={"versions": {f"v{number}": "1" for number in range(17)}}),
    ],
)
def test_rubbish_of_a_trainer_is_refused_before_the_agent_counts_with_it(wrong: Any) -> None:
    with pytest.raises(MalformedMessage):
        decode_reply(encode_frame(wrong)[4:])
