"""What is asked of a simulation: words of the command, cases dealt out, the comparison of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import light, write_set

from deploy.demo.layout import DemoLayout
from deploy.demo.partition import FoundCases, find_cases
from deploy.simulate.comparison import comparison_as_plain, render_comparison
from deploy.simulate.dealing import (
    DealRule,
    apportion,
    deal_by_label,
    parse_split,
    share_cases,
)
from deploy.simulate.results import RunResult
from deploy.simulate.sources import DataWish, choose_origin
from deploy.simulate.wishes import Absence, adapt_experiment, parse_faults, parse_seeds, parse_strategies
from messages.ground.errors import DataError, RequestError

EXPERIMENT = light(("site-a", "site-b", "site-c"), count=5)


def found(count: int) -> FoundCases:
    names = [f"case-{number:03d}" for number in range(count)]
    return FoundCases(Path("set"), {name: [("imagesTr", Path(name)), ("labelsTr", Path(name))] for name in names})


def share(rule: str, count: int, sites: int, seed: int = 1, table: Path | None = None) -> list[list[str]]:
    return share_cases(parse_split(rule), found(count), sites, seed=seed, table=table)


def test_seeds_strategies_and_faults_are_read_from_words() -> None:
    assert parse_seeds("1,2,3") == (1, 2, 3)
    assert parse_seeds("4-6, 5") == (4, 5, 6)
    assert parse_strategies("FedAvg,FedAdam,FedAvg") == ("FedAvg", "FedAdam")
    faults = parse_faults(["site-c@3-5,site-a@2"], ["site-b=10x", "site-a=1.5"], ["site-c@4"], EXPERIMENT)
    assert faults.drops == (Absence("site-c", 3, 5), Absence("site-a", 2, 2))
    assert faults.slow == {"site-b": 10.0, "site-a": 1.5}
    assert faults.late == {"site-c": 4}


@pytest.mark.parametrize("word", ["a", "1-", "3-1", "-1", "1-5000", str(2**63)])
def test_what_is_no_seed_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="--seeds"):
        parse_seeds(word)


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("drop", "site-c"),
        ("drop", "site-c@0"),
        ("drop", "site-c@3-2"),
        ("drop", "site-z@1"),
        ("drop", "site-c@6"),
        ("slow", "site-b"),
        ("slow", "site-b=0x"),
        ("slow", "site-b=-1"),
        ("slow", "site-z=2x"),
        ("late", "site-b@1-2"),
        ("late", "site-b@9"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_by_its_option(option: str, word: str) -> None:
    given = {"drop": [], "slow": [], "late": []} | {option: [word]}
    with pytest.raises(RequestError, match=f"--{option}"):
        parse_faults(given["drop"], given["slow"], given["late"], EXPERIMENT)


def test_more_sites_get_names_and_fewer_are_the_first_of_the_file() -> None:
    assert adapt_experiment(EXPERIMENT, sites=2, seed=None, strategy=None).sites == ("site-a", "site-b")
    more = adapt_experiment(EXPERIMENT, sites=5, seed=9, strategy="FedAdam")
    assert more.sites == ("site-a", "site-b", "site-c", "site-4", "site-5")
    assert (more.seed, more.plan.strategy.name) == (9, "FedAdam")


@pytest.mark.parametrize("word", ["", "foo", "0,1", "1,x", "sizes:", "sizes:0", "labels:nan", "column:"])
def test_a_split_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="--split"):
        parse_split(word)


@given(st.sampled_from(["even", "sizes:0.3", "sizes:5"]), st.integers(1, 9), st.integers(0, 40), st.integers(0, 99))
def test_each_case_goes_to_one_site_and_each_site_has_one(rule: str, sites: int, more: int, seed: int) -> None:
    dealt = share(rule, sites + more, sites, seed)
    assert sorted(name for names in dealt for name in names) == [*found(sites + more).files]
    assert all(dealt)
    assert dealt == share(rule, sites + more, sites, seed)


def test_sizes_are_kept_and_another_seed_deals_other_cases() -> None:
    dealt = share("3,1,5", 12, 3)
    assert [len(names) for names in dealt] == [3, 1, 5]
    assert dealt != share("3,1,5", 12, 3, seed=2)


def test_sizes_that_do_not_fit_and_more_sites_than_cases_are_refused() -> None:
    with pytest.raises(RequestError, match="2 sizes for 3 sites"):
        share("3,1", 12, 3)
    with pytest.raises(DataError, match="asks for 14 cases, and there are 12"):
        share("7,7", 12, 2)
    with pytest.raises(DataError, match="3 cases cannot be dealt out to 4 sites"):
        share("even", 3, 4)


def test_a_column_keeps_its_groups_together(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    scanners = [f"case-{number:03d},{'ABC'[number % 3] if number < 9 else 'A'}" for number in range(12)]
    table.write_text("\n".join(["case,scanner", *scanners]))
    dealt = share("column:scanner", 12, 2, table=table)
    assert [len(names) for names in dealt] == [6, 6]
    with pytest.raises(RequestError, match="3 values for 4 sites"):
        share("column:scanner", 12, 4, table=table)
    with pytest.raises(RequestError, match="no column 'vendor'"):
        share("column:vendor", 12, 2, table=table)
    with pytest.raises(RequestError, match="1 cases have no scanner, case-012"):
        share("column:scanner", 13, 2, table=table)
    with pytest.raises(RequestError, match="no such table"):
        share("column:scanner", 12, 2, table=tmp_path / "none.csv")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 60), st.integers(0, 2))
def test_whole_numbers_add_up(shares: list[float], more: int, least: int) -> None:
    total = least * len(shares) + more
    counts = apportion(shares, total, least=least)
    assert sum(counts) == total
    assert min(counts) >= least


def test_a_small_alpha_parts_the_labels_and_nobody_stays_empty() -> None:
    labels = {f"case-{number:03d}": number % 3 for number in range(60)}
    apart = deal_by_label(labels, 3, 0.01, np.random.default_rng(1))
    alike = deal_by_label(labels, 3, 1000.0, np.random.default_rng(1))
    for dealt in (apart, alike):
        assert sorted(name for names in dealt for name in names) == sorted(labels)
        assert all(dealt)
    kinds = [[len({labels[name] for name in names}) for names in dealt] for dealt in (apart, alike)]
    assert sum(kinds[0]) < sum(kinds[1]) == 9


def test_the_main_label_of_each_case_is_read_from_its_file(tmp_path: Path) -> None:
    cases = find_cases(write_set(tmp_path / "set", cases=9))
    dealt = share_cases(DealRule("labels", alpha=0.01), cases, 3, seed=3, table=None)
    assert sorted(name for names in dealt for name in names) == [*cases.files]


def test_images_that_are_not_those_of_the_experiment_are_refused(tmp_path: Path) -> None:
    other = light(task={"channels": ["T1", "CT"]})
    with pytest.raises(DataError, match="no channels CT: the images have T1, T1c, T2, FLAIR"):
        choose_origin(DataWish(write_set(tmp_path / "set")), other)
    with pytest.raises(DataError, match="no channels CT"):
        choose_origin(DataWish(), other)
    with pytest.raises(RequestError, match="--split goes with --data"):
        choose_origin(DataWish(rule=DealRule("sizes", (1, 1, 1))), EXPERIMENT)
    (tmp_path / "own" / "site-a").mkdir(parents=True)
    with pytest.raises(DataError, match="no folder for site-b"):
        choose_origin(DataWish(tmp_path / "own"), EXPERIMENT)


def test_a_folder_for_each_site_is_read_where_it_lies(tmp_path: Path) -> None:
    for site in EXPERIMENT.sites:
        write_set(tmp_path / site, cases=2)
    origin = choose_origin(DataWish(tmp_path), EXPERIMENT)(DemoLayout(tmp_path / "out"), 1)
    source = origin.describe_source("site-b")
    assert (source["path"], source["channels"]) == (tmp_path / "site-b", ["T1", "T1c", "T2", "FLAIR"])
    with pytest.raises(RequestError, match="each site has its own"):
        choose_origin(DataWish(tmp_path, DealRule("sizes", (1, 1, 1))), EXPERIMENT)


def result(seed: int, strategy: str, shift: float) -> RunResult:
    rng = np.random.default_rng(seed)
    rows = {site: [{"WT": float(score + shift)} for score in rng.uniform(0.2, 0.6, 8)] for site in ("a", "b")}
    scores = [row["WT"] for site in rows.values() for row in site]
    federated = {"mean": sum(scores) / len(scores), "worst_site": "a"}
    return RunResult(
        {
            "seed": seed, "strategy": strategy, "state": "complete", "reason": None, "metric": "dice", "title": "Dice",
            "dice": {"federated": federated}, "model_digest": "ab" * 32, "seconds": 1.0,
            "curve": [[0, 0.1], [1, 0.2 + shift]], "rows": rows,
        }
    )  # fmt: skip


def test_strategies_are_paired_case_by_case_over_the_seeds() -> None:
    runs = [result(seed, name, shift) for seed in (1, 2) for name, shift in (("FedAvg", 0.0), ("FedAdam", 0.1))]
    first, second = comparison_as_plain(runs)
    assert (first["strategy"], first["gain"]) == ("FedAvg", None)
    assert second["gain"]["mean"] == pytest.approx(0.1)
    assert second["gain"]["low"] == pytest.approx(0.1)  # each case gains the same
    assert second["gain"]["n"] == 32
    page = render_comparison("exp-1", runs)
    assert "+0.1000 (+0.1000 to +0.1000)" in page
    assert page.count("<svg") == 2
    assert "(2 seeds)" in page
