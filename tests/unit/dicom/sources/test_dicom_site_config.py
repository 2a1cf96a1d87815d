"""Data sets from DICOM in site.toml: read to the last key, placed beside the file, guarded by the agent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE, eventually

from messages.ground.clock import SystemClock
from messages.ground.errors import ConfigError
from messages.reasons import Reason
from site_agent import config
from site_agent.data.described import concepts_of, dataset_of
from site_agent.data.guard import DataGuard, Look, judge_data
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import DicomWebSource, DimseSource, FolderSource
from site_agent.dicom.prepared import pins, store
from site_agent.disk.secret import secret_of

HEAD = 'schema = 1\n[site]\nname = "site-a"\nconsortium = "c"\nstate = "state"\n'
SHARED = """
channels = ["T1c", "FLAIR"]
query = { since = 2019-01-01, description = "*BRAIN*", patients = "patients.txt" }
overrides = [{ description = "KM$", role = "T1c" }]
withdrawn = "withdrawn.txt"
refresh = "12h"
encrypt = true
disk = "200GiB"
labels = { source = "seg", order = ["ED", "ET"], concepts = { ET = { codes = ["NCIt:C113842"] }, ED = { codes = ["SCT:79654002"] } } }
"""  # noqa: E501 - TOML's inline tables end with their line
SETS = {
    "folder": 'source = "dicom"\npath = "/archive"\n',
    "pacs": 'source = "dimse"\nhost = "pacs"\nae = "KONSIL"\ncalled = "PACS"\nretrieve = "move"\nca = "ca.pem"\n',
    "web": 'source = "dicomweb"\nurl = "https://pacs.example/dicom-web"\nuser = "k"\npassword = "credential:pacs"\n',
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(HEAD + text)
    return path


@pytest.fixture
def site(tmp_path: Path) -> config.SiteConfig:
    return config.read_config(
        written(tmp_path, "".join(f"[datasets.{name}]\n{own}{SHARED}" for name, own in SETS.items()))
    )


def test_each_source_is_read_and_its_relative_files_lie_beside_site_toml(
    site: config.SiteConfig, tmp_path: Path
) -> None:
    folder, pacs, web = (site.datasets[name] for name in SETS)
    assert isinstance(folder, FolderSource)
    assert isinstance(pacs, DimseSource)
    assert isinstance(web, DicomWebSource)
    assert folder.path == Path("/archive")
    assert pacs.ca == tmp_path / "ca.pem"
    for one in (folder, pacs, web):
        assert one.withdrawn == tmp_path / "withdrawn.txt"
        assert one.query.patients == tmp_path / "patients.txt"
        assert (one.query.since, one.refresh, one.disk) == (date(2019, 1, 1), 43200.0, 200 * 2**30)
        assert concepts_of(one) == {"ED", "ET"}


def test_a_trainer_reads_the_same_settings_from_plain_types(site: config.SiteConfig) -> None:
    for one in site.datasets.values():
        assert dataset_of(one.model_dump(mode="json")) == one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('source = "pacs"\n', '"brats", "decathlon", "table", "dicom", "dimse", "dicomweb"'),
        ('path = "/archive"\n', "a data set names its source"),
        ('source = "dicom"\npath = "/archive"\n', "key 'datasets.g.channels' is missing"),
        (SETS["folder"] + SHARED + "folder = 1\n", "key 'datasets.g.folder' is unknown"),
        (SETS["pacs"].replace("KONSIL", "A\\\\B") + SHARED, "datasets.g.ae"),
        (SETS["web"].replace("https", "ftp") + SHARED, "datasets.g.url"),
        (SETS["folder"] + SHARED.replace("KM$", "KM("), "is not a regular expression"),
        (SETS["folder"] + SHARED.replace('"T1c", ', '"T1w", '), "datasets.g.channels.0 = 'T1w'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_as_it_stands_in_the_file(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        config.read_config(written(tmp_path, f"[datasets.g]\n{text}"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_item_of_a_list_is_one_mistake_and_not_two(tmp_path: Path) -> None:
    wrong = SHARED.replace('["T1c", "FLAIR"]', '["CT"]')
    with pytest.raises(ConfigError) as refused:
        config.read_config(written(tmp_path, f"[datasets.g]\n{SETS['folder']}{wrong}"))
    assert refused.value.what.startswith("datasets.g.channels.0 = 'CT': ")
    assert ";" not in refused.value.what


def test_no_secret_of_a_pacs_is_shown_in_a_mistake(tmp_path: Path) -> None:
    text = SETS["web"].replace('"credential:pacs"', "4711").replace("user", "token = 4712\nuser") + SHARED
    with pytest.raises(ConfigError) as refused:
        config.read_config(written(tmp_path, f"[datasets.g]\n{text}"))
    assert "datasets.g.password" in str(refused.value)
    assert "471" not in str(refused.value)


def test_the_guard_judges_a_prepared_set_by_what_the_experiment_was_joined_with(
    site: config.SiteConfig, tmp_path: Path
) -> None:
    (tmp_path / "withdrawn.txt").write_text("")
    state, print_ = site.site.state, "f" * 64
    guard, seen = DataGuard(site.datasets, lambda work: work(), SystemClock(), state), []

    def look() -> Reason | None:
        seen.clear()
        guard.look_at_data("e-1", "web", seen.append)
        eventually(lambda: seen, what="a look")
        return judge_data(joined, seen[0])

    joined: str | None = None
    assert look() is None
    store.Store(store.folder_of(state, "web")).publish_state(print_, {}, Accounting(0, 0, fingerprint=print_))
    withdrawn = pins.look_at_list(tmp_path / "withdrawn.txt")
    pins.write_pin(state / "cache" / "e-1", pins.Pin("web", Accounting(0, 0, fingerprint=print_), withdrawn))
    joined = print_
    assert look() is None
    assert seen == [Look(print_, 0)]
    (tmp_path / "withdrawn.txt").write_text("KH-1\n")
    assert look() is Reason.DATASET_CHANGED


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "of another shape": lambda path: path.write_text('{"dataset": 1}'),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_note_of_what_was_joined_with_counts_as_none(how: str, tmp_path: Path) -> None:
    pin = pins.Pin("web", Accounting(3, 2, fingerprint="a"), "")
    pins.write_pin(tmp_path / "cache" / "e-1", pin)
    assert pins.read_pin(tmp_path / "cache" / "e-1") == pin
    assert pins.pinned_states(tmp_path, "web") == {"a"}
    DAMAGE[how](tmp_path / "cache" / "e-1" / pins.FILE)
    assert pins.read_pin(tmp_path / "cache" / "e-1") is None
    assert pins.pinned_states(tmp_path, "web") == set()


def test_a_site_has_one_secret_however_many_ask_for_it_first(tmp_path: Path) -> None:
    found: list[bytes] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(PATIENCE)
        found.append(secret_of(tmp_path))

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(PATIENCE)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
