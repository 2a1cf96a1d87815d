"""site.toml: the whole of it is read, and each mistake is one line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.demo.experiments import glioma_demo
from messages.ground.errors import ConfigError
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from site_agent import config
from site_agent.datasets.config import DatasetConfig
from site_agent.dicom.config import DicomWebSource
from site_agent.loop.rules import Rules
from site_agent.wire.sender import Throttle

LEAST = '[site]\nname = "site-a"\nconsortium = "c"\nstate = "STATE"\n'
WHOLE = (
    "schema = 1\n"
    + LEAST
    + """
[broker]
host = "broker.example.org"
port = 443
ca = "/etc/konsil/ca.pem"
cert = "/etc/konsil/site.pem"
key = "credential:site-key"
[limits]
gpus = [0]
threads = 4
ram = "32GiB"
disk = "200GiB"
bandwidth = "100Mbit/s"
hours = "18:00-07:00"
[datasets.glioma]
source = "brats"
path = "/data/glioma"
labels = { 1 = "NCR", 2 = "ED", 3 = "ET" }
patient_id = 'BraTS-GLI-(\\d+)-\\d+'
withdrawn = "/etc/konsil/withdrawn.txt"
[policy]
default = "deny"
approval = "hand"
[[policy.allow]]
researchers = ["dr-a"]
datasets = ["glioma"]
tasks = ["segmentation"]
nets = ["UNet"]
rounds_max = 600
until = 2027-12-31
[policy.floors]
least_cases = 20
least_metric_cases = 5
round_counts_to = 1
clip_norm_max = 10.0
noise_multiplier_min = 0.0
secure_aggregation = false
share_site_metrics = true
share_case_metrics = false
[retention]
cache = "30d"
sent_ledger = "10y"
"""
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text.replace("STATE", str(tmp_path)))
    return path


def test_the_designs_example_is_understood_to_the_last_key(tmp_path: Path) -> None:
    site = config.read_config(written(tmp_path, WHOLE))
    assert site.datasets["glioma"].labels == {1: "NCR", 2: "ED", 3: "ET"}
    assert site.limits.bandwidth == 12.5e6
    assert site.limits.disk == 200 * 2**30
    assert site.retention.cache == 30 * 86400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LEAST, "key 'schema' is missing"),
        ("schema = 1\n" + LEAST.replace("site-a", "Site A"), "site.name = 'Site A'"),
        ("schema = 1\n" + LEAST.replace("site-a", "coordinator"), "reserved"),
        ("schema = 1\n" + LEAST + "[limits]\ngpu = 1\n", "key 'limits.gpu' is unknown (did you mean 'gpus'?)"),
        ("schema = 1\n" + LEAST + '[limits]\nhours = "6pm"\n', "write hours as HH:MM-HH:MM"),
        ("schema = 1\n" + LEAST + '[policy]\napproval = "maybe"\n', "policy.approval = 'maybe'"),
        ("schema = ", "is not valid TOML"),
        ("schema = 1\n" + LEAST + "[limits]\ngpus = [0]\n[training]\nprocesses = 2\n", "limits.gpus names 1"),
        ("schema = 1\n" + LEAST + '[training]\ncompile = true\ncommand = ["/x"]\n', "training.compile goes with"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        config.read_config(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (datetime(2026, 5, 1, 20), 0.0),
        (datetime(2026, 5, 1, 6, 59), 0.0),
        (datetime(2026, 5, 1, 7, 0), 11 * 3600.0),
        (datetime(2026, 5, 1, 17, 30), 1800.0),
    ],
)
def test_hours_that_pass_midnight_say_when_they_begin(tmp_path: Path, moment: datetime, seconds: float) -> None:
    clock = VirtualClock(moment.replace(tzinfo=UTC).timestamp())
    assert Rules(config.read_config(written(tmp_path, WHOLE)), clock).opens_in() == seconds


def test_the_throttle_keeps_its_rate() -> None:
    clock = VirtualClock()
    began = clock.now()

    def send() -> None:
        throttle = Throttle(1000.0, clock)
        for _ in range(20):
            throttle.take_bytes(500)

    clock.run(send)
    assert clock.now() - began == pytest.approx(20 * 500 / 1000, abs=0.3)


def test_a_relative_state_directory_lies_beside_the_file(tmp_path: Path) -> None:
    site = config.read_config(written(tmp_path, ("schema = 1\n" + LEAST).replace("STATE", "state")))
    assert site.site.state == tmp_path / "state"


def test_every_relative_path_lies_beside_the_file_whatever_folder_the_agent_was_started_in(tmp_path: Path) -> None:
    text = """schema = 1
[site]
name = "site-a"
consortium = "c"
state = "state"
[broker]
password = "file:broker-password"
[datasets.glioma]
source = "decathlon"
path = "images"
withdrawn = "withdrawn.txt"
[datasets.pacs]
source = "dicomweb"
url = "https://pacs.example/dicom-web"
password = "file:pacs-password"
token = "credential:pacs-token"
channels = ["T1"]
labels.concepts = { ET = { codes = ["NCIt:C113842"] } }
"""
    (tmp_path / "broker-password").write_text("secret\n")
    site = config.read_config(written(tmp_path, text))
    assert site.broker.resolved_password() == "secret"
    glioma, pacs = site.datasets["glioma"], site.datasets["pacs"]
    assert isinstance(glioma, DatasetConfig)
    assert (glioma.path, glioma.withdrawn) == (tmp_path / "images", tmp_path / "withdrawn.txt")
    assert isinstance(pacs, DicomWebSource)
    assert (pacs.password, pacs.token) == (f"file:{tmp_path / 'pacs-password'}", "credential:pacs-token")


def test_the_vhost_is_the_consortiums_unless_the_file_names_another(tmp_path: Path) -> None:
    head = "schema = 1\n" + LEAST.replace("STATE", "state").replace('"c"', '"glioma"')
    assert config.read_config(written(tmp_path, head)).broker.vhost == "glioma"
    assert config.read_config(written(tmp_path, head + '[broker]\nvhost = "other"\n')).broker.vhost == "other"


def test_a_site_that_does_not_know_a_strategy_says_that_it_does_not(tmp_path: Path) -> None:
    clock = VirtualClock(datetime(2026, 5, 1, tzinfo=UTC).timestamp())
    rules = Rules(config.read_config(written(tmp_path, WHOLE)), clock)
    plain = glioma_demo(3, 1, ["site-a"])
    assert rules.judge_experiment(plain | {"plan": {"strategy": "FedProx"}}, "dr-a").reason is None
    for later in ("FedLater", {"name": "FedProx", "later": 1.0}):
        assert rules.judge_experiment(plain | {"plan": {"strategy": later}}, "dr-a").reason is Reason.UNSUPPORTED
