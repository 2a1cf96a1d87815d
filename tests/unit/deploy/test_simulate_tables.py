"""A folder with a table is dealt out in whole patients, and a classification goes from its file to its report."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from class_task import class_experiment, write_pictures
from simulated import simulate

from deploy.cli import words
from deploy.demo.layout import DemoLayout
from deploy.demo.processes import Children
from deploy.simulate.dealing import DealRule
from deploy.simulate.sources import DataWish, choose_origin
from deploy.story.summary import story_as_plain
from messages.ground.errors import DataError, RequestError
from messages.ground.settings import parse_settings
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.layouts import find_cases

SITES = ("site-a", "site-b", "site-c")
LABELS = ["benign", "benign", "malignant", "malignant"] * 6


def deal(folder: Path, out: Path, rule: DealRule, described: Path | None = None) -> dict[str, list[dict[str, str]]]:
    """Each site's lines, once what it is told of its folder was read as a site reads it."""
    origin = choose_origin(DataWish(folder, rule, described=described), class_experiment(SITES))(DemoLayout(out), 3)
    origin.bring_images(Children())
    dealt = {}
    for site in SITES:
        source = origin.describe_source(site)
        chosen = parse_settings({**source, "path": str(source["path"])}, DatasetConfig, site)
        with (chosen.path / "labels.csv").open(newline="") as file:
            dealt[site] = list(csv.DictReader(file))
        assert len(find_cases(chosen).candidates) == len(dealt[site])
        assert all(candidate.images for candidate in find_cases(chosen).candidates)
    return dealt


@pytest.mark.parametrize("rule", [DealRule(), DealRule("sizes", (6, 4, 2)), DealRule("labels", alpha=0.5)])
def test_no_patient_is_at_two_sites_and_no_case_is_lost(rule: DealRule, tmp_path: Path) -> None:
    dealt = deal(write_pictures(tmp_path / "set", LABELS), tmp_path / "out", rule)
    patients = [{line["patient"] for line in lines} for lines in dealt.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 12
    assert sum(map(len, dealt.values())) == len(LABELS)
    if rule.kind == "sizes":
        assert [len(one) for one in patients] == [6, 4, 2]


def test_a_column_of_the_table_is_dealt_out_and_an_empty_cell_is_a_value(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", LABELS)
    lines = (folder / "labels.csv").read_text().splitlines()
    scanners = ["GE", "GE", "Toshiba", ""]
    told = [f"{lines[0]},scanner", *(f"{line},{scanners[n % 8 // 2]}" for n, line in enumerate(lines[1:]))]
    (folder / "labels.csv").write_text("\n".join(told))
    dealt = deal(folder, tmp_path / "out", DealRule("column", column="scanner"))
    assert [{line["scanner"] for line in lines} for lines in dealt.values()] == [{"GE"}, {""}, {"Toshiba"}]
    with pytest.raises(DataError, match="there is no column 'colour'"):
        deal(folder, tmp_path / "other", DealRule("column", column="colour"))


def test_a_description_names_columns_and_words(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["0", "1"] * 6)
    described = tmp_path / "set.toml"
    described.write_text(
        'channels = ["US"]\n[table]\nlabel = "label"\nonly = { label = ["0"] }\n'
        '[table.classes]\n0 = "benign"\n1 = "malignant"\n'
    )
    dealt = deal(folder, tmp_path / "out", DealRule(), described)
    assert {line["label"] for lines in dealt.values() for line in lines} == {"0"}
    described.write_text('channels = ["CT"]\n[table]\nlabel = "label"\n')
    with pytest.raises(DataError, match="no channels US: the images have CT"):
        choose_origin(DataWish(folder, described=described), class_experiment(SITES))
    described.write_text('[table]\nlabl = "label"\n')
    with pytest.raises(RequestError, match="labl"):
        choose_origin(DataWish(folder, described=described), class_experiment(SITES))


def test_the_report_and_watch_say_area_and_confusion(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set", LABELS)
    one = class_experiment(SITES, 2)
    results, _said, story = simulate(tmp_path / "out", one, data=DataWish(tmp_path / "set"))
    assert story is not None
    assert results[0].plain["metric"] == "auc"
    assert results[0].mean == 0.5  # of a trainer that trains nothing
    page = next((tmp_path / "out").rglob("report.html")).read_text()
    for text in (
        "AUC by class over all test cases, each class against the rest",
        "Confusion matrix over all test cases",
        "predicted malignant",
        "All classes together, on the test cases",
        "sensitivity on the test cases",
        "ROC over all test cases, each class against the rest",
        "Validation AUC by round, overall",
    ):
        assert text in page
    assert "accuracy on the test cases" not in page  # it has no value of a class: it stands among those of all
    lines = "\n".join(words.closing_lines(story))
    assert "test AUC overall  0.5000 (benign 0.500 malignant 0.500), balanced accuracy 0.500" in lines
    plain = story_as_plain(story)
    assert plain["test"]["classes"] == {"benign": 0.5, "malignant": 0.5}
