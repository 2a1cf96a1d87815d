"""`konsil site privacy`: what the ledgers have left, for local eyes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import agenda_kit as kit
import pytest
from privacy_kit import A_ROUND, Site, accepted, prepared
from typer.testing import CliRunner, Result

from deploy.site.cli import app
from site_agent.desk.spending import explain_price

BUDGET = {"ledger": "patients", "epsilon_lifetime": 8.0, "experiments_max": 3}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path / "state", {"glioma": BUDGET, "glioma-2": BUDGET, "free": None})
    (tmp_path / "site.toml").write_text(
        f"""schema = 1
[site]
name = "site-a"
consortium = "test"
state = "{tmp_path / "state"}"
[broker]
host = "localhost"
password = "x"
"""
        + "".join(
            f"""[datasets.{name}]
source = "brats"
path = "{tmp_path}"
labels = {{ 3 = "ET" }}
"""
            + ("" if name == "free" else f"[datasets.{name}.privacy]\n" + _as_toml())
            for name in ("glioma", "glioma-2", "free")
        )
    )
    one.take(accepted())
    one.take(prepared())
    one.train(1)
    yield one
    one.end()


def _as_toml() -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in BUDGET.items())


def ask(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["privacy", *words, "--config", str(tmp_path / "site.toml")])


def test_budgets_are_shown_by_ledger_and_experiment_while_the_agent_runs(site: Site, tmp_path: Path) -> None:
    said = ask(tmp_path)
    assert said.exit_code == 0, said.output
    account = site.account()
    assert f"patients: epsilon {account.spent:.2f} of 8 spent, {account.bound:.2f} with what is reserved" in said.stdout
    assert "1 of 3 experiments" in said.stdout
    assert f"{A_ROUND} of {5 * A_ROUND}" in said.stdout
    assert "free: epsilon 0.00 spent, no budget" in said.stdout
    assert "not covered" in said.stdout


@pytest.mark.parametrize("name", ["glioma-2", "patients"])
def test_one_ledger_is_shown_by_its_name_or_a_data_set_s(site: Site, tmp_path: Path, name: str) -> None:
    said = json.loads(ask(tmp_path, name, "--json").stdout)
    ((ledger),) = said["ledgers"]
    assert ledger["ledger"] == "patients"
    assert ledger["datasets"] == ["glioma", "glioma-2"]
    assert ledger["spent"] == site.account().spent
    (one,) = ledger["experiments"]
    assert (one["experiment"], one["steps_spent"], one["open"]) == ("e", A_ROUND, True)
    assert ledger["not_covered"]


def test_an_unknown_name_is_refused_with_those_that_there_are(site: Site, tmp_path: Path) -> None:
    said = ask(tmp_path, "glioam")
    assert "Known ledgers: patients, free" in str(said.exception)


def test_what_an_experiment_would_spend_is_told_in_words_with_the_round_that_passes(site: Site) -> None:
    account = site.account()
    price = prepared("f").price
    assert price is not None
    experiment = kit.Experiment.model_validate(site.steps.agenda.jobs["e"].file)
    assert f"fits into ledger patients: {account.bound:.2f} of 8 are taken" in explain_price(account, experiment, price)
    large = type(price)(price.steps * 400, price.steps_per_round * 40, 99.0, 1e-5, price.divergences)
    words = explain_price(account, experiment.model_copy(update={"id": "f"}), large)
    assert "would pass the 8 of ledger patients" in words
    assert "round " in words
    assert "has no budget" in explain_price(site.account("free"), experiment, price)
