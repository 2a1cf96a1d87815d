"""Work that other processes do comes back in its order, and a process that ends is told."""

from __future__ import annotations

import operator
import os
from functools import partial

import pytest

from messages.ground import in_order
from messages.ground.errors import WorkFailed
from messages.ground.in_order import LARGE, run_in_order


@pytest.mark.parametrize("processes", [1, 2])
def test_each_item_comes_back_in_its_place_with_what_its_job_found(processes: int) -> None:
    items = [(n, partial(operator.mul, n, n) if n % 3 else None, LARGE // 4) for n in range(40)]
    assert list(run_in_order(items, processes)) == [(n, n * n if n % 3 else None) for n in range(40)]


def test_little_work_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(in_order, "ProcessPoolExecutor")
    items = [(n, partial(os.getpid), LARGE // 4) for n in range(4)]
    assert {found for _item, found in run_in_order(items, 2)} == {os.getpid()}


def test_a_process_that_ends_is_an_error_that_says_so() -> None:
    with pytest.raises(WorkFailed, match="process that took part in the work ended"):
        list(run_in_order([(1, partial(os._exit, 1), 2 * LARGE)], 2))
