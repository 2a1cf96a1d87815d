"""Each published study at Konsil's origin is an experiment file that runs: it is valid, and its net learns from it."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from places import ROOT

from benchmarks.studies import BATCH, ROUNDS, invent_images, read_result, reduce_size, shorten_study, write_table
from deploy.demo.data import read_real
from deploy.demo.tabled import read_table_set
from messages.experiment import Experiment, read_experiment
from nets.build import build_for
from nets.registry import check_net
from site_agent.training.tasks.registry import learner_for

FILES = sorted((ROOT / "experiments").glob("*.toml"))
PAGE = (ROOT / "docs" / "studies.md").read_text()

pytestmark = pytest.mark.torch


def invent_truth(one: Experiment) -> torch.Tensor:
    """Labels of a batch, as `Learner.loss` takes them."""
    if one.task.truth == "table":
        words = [one.task.invent_word(number) for number in range(BATCH)]
        return torch.tensor([one.task.encode_value([word]) for word in words])
    torch.manual_seed(1)
    return torch.randint(0, len(one.task.concepts) + 1, (BATCH, *one.training.patch), dtype=torch.uint8)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_is_valid_and_one_step_of_it_at_reduced_size_moves_the_net(file: Path) -> None:
    one = read_experiment(file)
    check_net(one)
    assert one.id == file.stem
    small = reduce_size(one)
    check_net(small)
    net = build_for(small).train()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    torch.manual_seed(0)
    logits = net(torch.randn(BATCH, len(small.task.channels), *small.training.patch))
    loss = learner_for(small).loss(logits.float(), invent_truth(small))
    loss.backward()
    torch.optim.Adam(net.parameters(), 1e-3).step()
    assert math.isfinite(loss.item())
    moved = [not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_the_page_names_every_file_with_its_plan_net_and_number_of_sites() -> None:
    rows = re.findall(
        r"^\| \[`([\w-]+)`\]\(\.\./experiments/\1\.toml\) \| (\w+) \| (\w+) \| (\d+) \|", PAGE, re.MULTILINE
    )
    studies = [read_experiment(file) for file in FILES]
    assert rows == [(one.id, one.plan.kind, one.net.name, str(len(one.sites))) for one in studies]


def test_every_one_of_the_twenty_rows_has_a_file() -> None:
    of_row = Counter(re.sub(r"-(\d{4}b?)\b.*", r"-\1", file.stem) for file in FILES if file.stem != "jip-brats")
    assert len(of_row) == 20
    assert {row for row, files in of_row.items() if files > 1} == {
        "chang-2018", "feki-2021", "lee-2021", "sheller-2020",
    }  # fmt: skip


def test_two_rounds_of_a_study_keep_its_plan_and_its_sites() -> None:
    for file in FILES:
        one = read_experiment(file)
        short = shorten_study(one)
        assert (short.plan, short.sites, short.task) == (one.plan, one.sites, one.task)
        turns = len(one.sites) if one.plan.kind == "sequential" else 1
        assert short.rounds.count == ROUNDS * turns


@pytest.mark.parametrize("name", ["flores-2021", "xu-2020", "jip-brats", "andreux-2020"])
def test_invented_images_are_of_the_studys_kind(name: str, tmp_path: Path) -> None:
    one = shorten_study(read_experiment(ROOT / "experiments" / f"{name}.toml"))
    one = one.model_copy(update={"sites": one.sites[:2]})
    invent_images(one, tmp_path / "data")
    for site in one.sites:
        if one.task.truth == "table":
            found = read_table_set(tmp_path / "data" / site, one, None)
            assert set(found.read_column("label").values()) == set(one.task.targets)
        else:
            real = read_real(tmp_path / "data" / site)
            assert real.channels == one.task.channels
            assert set(real.labels.values()) == set(one.task.concepts)


def test_the_table_of_the_runs_stands_between_the_pages_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.split("<!-- made by")[0] + "<!-- made by `make studies` -->\nold\n<!-- end -->\nafter\n")
    told = {"metric": "auc", "auc": {"federated": {"mean": None}}, "rounds": 2, "seconds": 80.4, "title": "AUC"}
    write_table(page, [read_result("roth-2020", told | {"model_digest": "ab" * 32})])
    written = page.read_text()
    assert "| `roth-2020` | 2 | 80 | AUC - | `abababababab` |" in written
    assert "old" not in written
    assert written.endswith("<!-- end -->\nafter\n")
