"""What people write: experiment files, units, secrets; one line for each mistake."""

from __future__ import annotations

from datetime import date, time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import codec, experiment
from messages.experiment import Experiment
from messages.ground import settings, units
from messages.ground.errors import ConfigError
from messages.ground.settings import BrokerAddress

TEXT = """
# What a researcher publishes. A good start, not the last word on names.
schema = 1
id = "glioma-unet3d-01"
purpose = "glioma segmentation research"
approval = "EC-2025-117"
expires = 2027-12-31
seed = 20250101
sites = ["site-a", "site-b", "site-c"]

[task]
kind = "segmentation"
channels = ["T1", "T1c", "T2", "FLAIR"]
activation = "sigmoid"
[task.regions]                 # named concepts, never a site's integers
WT = ["NCR", "ED", "ET"]
TC = ["NCR", "ET"]
ET = ["ET"]

[data]
dataset = "glioma"
split = { train = 0.7, validation = 0.1, test = 0.2 }
least_cases = 20
least_used_share = 0.9         # of the cases found

[net]
name = "UNet"
channels = [16, 32, 64, 128, 256]
strides = [2, 2, 2, 2]
num_res_units = 2
norm = "instance"

[preprocessing]
orientation = "RAS"
spacing_mm = [1.0, 1.0, 1.0]
crop = "foreground"
normalise = "zscore-nonzero"

[augmentation]
flip = 0.5
scale_intensity = 0.1

[training]
local_epochs = 1
patch = [128, 128, 128]
foreground_share = 0.33
batch = 2
loss = "dice+bce"
optimizer = { name = "Adam", lr = 1e-3, reset = true }
schedule = { name = "poly", over = "rounds" }
precision = "amp"

[evaluation]
every = 5
overlap = 0.5
metrics = ["dice", "hd95"]
select_by = "validation.dice.mean"

[rounds]
count = 500
enrol_within = "24h"
train_within = "6h"
grace = "15m"
at_deadline = "extend"         # or "fail"
extensions = 2

[plan]
kind = "aggregation"
strategy = "FedAvg"
weight_by = "cases_used"
weight_cap = 0.6

[quorum]
least_sites = 2
least_case_share = 0.6

[privacy]                      # can only tighten a site's floors
secure_aggregation = false
"""


def mistake(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        experiment.parse_experiment(text, "exp.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_example_is_read_and_survives_the_wire_exactly() -> None:
    read = experiment.parse_experiment(TEXT)
    assert (read.expires, read.least_sites, read.rounds.grace) == (date(2027, 12, 31), 2, 900.0)
    again = Experiment.model_validate(codec.unpack(codec.pack(read.as_plain())))
    assert again == read
    assert again.digest() == read.digest()
    assert again.as_plain() == read.as_plain()


def test_the_digest_ignores_comments_and_the_order_of_keys_and_nothing_else() -> None:
    read = experiment.parse_experiment(TEXT)
    reordered = "# a comment\n" + TEXT.replace("seed = 20250101\n", "").replace(
        "schema = 1\n", "seed = 20250101\nschema = 1\n"
    )
    assert experiment.parse_experiment(reordered).digest() == read.digest()
    assert experiment.parse_experiment(TEXT.replace("20250101", "20250102")).digest() != read.digest()
    # The regions' order is that of the net's output channels.
    wt = 'WT = ["NCR", "ED", "ET"]\n'
    moved = TEXT.replace(wt, "").replace('ET = ["ET"]\n', 'ET = ["ET"]\n' + wt)
    assert experiment.parse_experiment(moved).digest() != read.digest()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 1", "schema = 2", ["schema = 2", "1"]),
        ("schema = 1", "schema = true", ["schema = True", "schema = 1"]),
        ('id = "glioma-unet3d-01"', 'id = "Glioma 1"', ["id = 'Glioma 1'", "[a-z0-9-]"]),
        ('id = "glioma-unet3d-01"', 'id = "none"', ["id = 'none'", "reserved"]),
        ('id = "glioma-unet3d-01"', "", ["'id'", "missing"]),
        ("seed = 20250101", "seed = -1", ["seed = -1", "greater than or equal to 0"]),
        ("2027-12-31", "5", ["expires = 5", "2027-12-31"]),
        ('"site-c"]', '"site-a"]', ["sites", "site-a", "twice"]),
        ('"site-c"]', '"coordinator"]', ["sites", "coordinator", "reserved"]),
        ('"segmentation"', '"prognosis"', ["task.kind = 'prognosis'", "'segmentation'"]),
        ('WT = ["NCR", "ED", "ET"]', "WT = []", ["task", "at least one concept"]),
        ("test = 0.2", "test = 0.3", ["data.split", "add up to 1"]),
        ("least_cases = 20", 'least_cases = "20"', ["data.least_cases = '20'", "integer"]),
        ("least_cases = 20", "least_cases = 20.0", ["data.least_cases = 20.0", "integer"]),
        (
            "least_cases = 20",
            "least_cases = 10000000000000000000000",
            ["data.least_cases", "less than or equal"],
        ),
        ("num_res_units = 2", "num_res_units = inf", ["net", "num_res_units", "numbers"]),
        (
            "spacing_mm = [1.0, 1.0, 1.0]",
            "spacing_mm = [1.0, 0, 1.0]",
            ["preprocessing.spacing_mm", "above 0"],
        ),
        ("flip = 0.5", "flip = 1.5", ["augmentation.flip = 1.5", "less than or equal to 1"]),
        ("flip = 0.5", "flip = true", ["augmentation.flip = True", "number"]),
        ("local_epochs = 1", "local_epochs = 1\nlocal_steps = 5", ["training", "not both"]),
        ("patch = [128, 128, 128]", "patch = [4, 128, 128]", ["training.patch", "8"]),
        ("batch = 2", "batchsize = 2", ["'training.batchsize'", "unknown"]),
        ('"dice+bce"', '"dice+ce"', ["training.loss", "softmax"]),
        ("reset = true", 'reset = "yes"', ["training.optimizer.reset = 'yes'", "true or false"]),
        ("overlap = 0.5", "overlap = nan", ["evaluation.overlap = nan", "finite"]),
        ("count = 500", "count = -1", ["rounds.count = -1", "greater than or equal to 0"]),
        ("count = 500", "count = 0", ["rounds.count = 0", 'plan.kind = "evaluation"']),
        ('"24h"', '"a day"', ["rounds.enrol_within = 'a day'", "24h"]),
        ('"FedAvg"', '"Magic"', ["plan.strategy = 'Magic'", "'FedAvg'", "'FedAdam'"]),
        ('"FedAvg"', "5", ["plan.strategy = 5", "'FedAvg'", "'FedAdam'"]),
        ('"FedAvg"', "{ lr = 1 }", ["plan.strategy", "names no strategy", "'FedAvg'", "'FedAdam'"]),
        ('"FedAvg"', '{ name = "Magic" }', ["plan.strategy", "'Magic'", "'FedAvg'", "'FedAdam'"]),
        ('"FedAvg"', '{ name = "FedAvg", lr = 1 }', ["plan.strategy", "lr is unknown", "FedAvg takes no parameter"]),
        ('"FedAvg"', '{ name = "FedAdam", momentum = 1 }', ["momentum is unknown", "takes beta1, beta2, lr, tau"]),
        ('"FedAvg"', '{ name = "FedAdam", beta1 = 1 }', ["plan.strategy.beta1 = 1", "less than 1"]),
        ('"FedAvg"', '{ name = "FedAdam", tau = 0 }', ["plan.strategy.tau = 0", "greater than or equal to"]),
        (
            'kind = "aggregation"\nstrategy = "FedAvg"\nweight_by = "cases_used"\nweight_cap = 0.6',
            'kind = "sequential"\nstrategy = "FedAdam"',
            ["plan", 'strategy = "FedAdam"', 'kind = "aggregation"'],
        ),
        ('"FedAvg"', '{ name = "FedAdam", lr = "big" }', ["plan.strategy.lr = 'big'", "number"]),
        ('"FedAvg"', '"NormBound"', ["'plan.strategy.bound'", "missing"]),
        ('"FedAvg"', '{ name = "NormBound", bound = 0 }', ["plan.strategy.bound = 0", "greater than 0"]),
        ('"FedAvg"', '{ name = "FedProx", mu = -1 }', ["plan.strategy.mu = -1", "greater than or equal to 0"]),
        ('"FedAvg"', '{ name = "SCAFFOLD", mu = 1 }', ["mu is unknown", "SCAFFOLD takes lr"]),
        ('"FedAvg"', '{ name = "Median", attackers = 1 }', ["attackers is unknown", "takes no parameter"]),
        ('"FedAvg"', '{ name = "Krum", attackers = 1.0 }', ["plan.strategy.attackers = 1.0", "integer"]),
        ('"FedAvg"', '"Krum"', ["plan.strategy", "Krum (attackers 1)", "needs 5 updates", "least_sites", "with 2"]),
        ('"FedAvg"', '"TrimmedMean"', ["TrimmedMean (attackers 1)", "needs 3 updates", "with 2"]),
        ("least_sites = 2", "least_sites = 0", ["quorum.least_sites = 0", '"all"']),
        ("least_sites = 2", 'least_sites = "some"', ["quorum.least_sites = 'some'", '"all"']),
        ("least_sites = 2", "least_sites = 4", ["quorum.least_sites = 4", "3 sites"]),
        ("schema = 1", "schema = 1\nkeep_updates = -1", ["keep_updates = -1", '"none"']),
        (
            "secure_aggregation = false",
            "secure_aggregation = true",
            ["privacy.secure_aggregation = True", "False"],
        ),
    ],
)
def test_a_mistake_gets_one_line_with_key_value_and_what_is_allowed(old: str, new: str, said: list[str]) -> None:
    assert TEXT.count(old) == 1
    line = mistake(TEXT.replace(old, new))
    assert line.startswith("exp.toml: ")
    assert "; " not in line
    assert [part for part in said if part not in line] == []


def test_a_strategy_is_a_word_or_a_table_and_fedavg_keeps_the_digest_of_the_word() -> None:
    digest = experiment.parse_experiment(TEXT).digest()
    table = experiment.parse_experiment(TEXT.replace('"FedAvg"', '{ name = "FedAvg" }'))
    assert (table.digest(), table.as_plain()["plan"]["strategy"]) == (digest, "FedAvg")
    word, adam = (
        experiment.parse_experiment(TEXT.replace('"FedAvg"', said)) for said in ('"FedAdam"', '{ name = "FedAdam" }')
    )
    assert word == adam
    assert word.digest() == adam.digest() != digest
    assert word.as_plain()["plan"]["strategy"] == {
        "name": "FedAdam",
        "lr": 0.01,
        "beta1": 0.9,
        "beta2": 0.99,
        "tau": 0.001,
    }
    assert Experiment.model_validate(codec.unpack(codec.pack(word.as_plain()))) == word


@pytest.mark.parametrize("strategy", ["SCAFFOLD", "FedDC", "FedBN"])
def test_what_travels_otherwise_than_a_model_begins_with_none(strategy: str) -> None:
    begun = TEXT.replace("[net]\n", f'[net]\nfrom = "sha256:{"0" * 64}"\n')
    assert experiment.parse_experiment(begun).net.origin is not None
    assert f"net.from: with {strategy} other tensors" in mistake(begun.replace('"FedAvg"', f'"{strategy}"'))


def test_every_mistake_is_told_at_once() -> None:
    line = mistake(TEXT.replace("count = 500", "count = -1").replace("batch = 2", "batch = 0"))
    assert "rounds.count = -1" in line
    assert "training.batch = 0" in line


@pytest.mark.parametrize(
    ("section", "key", "many"), [("task", "channels", ""), ("task", "regions", {}), (None, "sites", "")]
)
def test_a_list_that_is_far_too_long_is_one_mistake(section: str | None, key: str, many: object) -> None:
    plain = experiment.parse_experiment(TEXT).as_plain()
    within = plain if section is None else plain[section]
    within[key] = {f"#{number}": [] for number in range(5000)} if isinstance(many, dict) else [many] * 5000
    with pytest.raises(ConfigError, match=rf"{key}.*at most \d+ entries, not 5000") as caught:
        settings.parse_settings(plain, Experiment, "exp.toml")
    assert len(str(caught.value)) < 300


def test_what_is_no_toml_or_no_file_is_told(tmp_path: Path) -> None:
    assert "not valid TOML" in mistake("schema = ")
    with pytest.raises(ConfigError, match="cannot be read"):
        experiment.read_experiment(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is UTF-16LE, not UTF-8"):
        experiment.read_experiment(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("15m", 900), ("15min", 900), ("24h", 86400), ("1.5 d", 129600), ("250ms", 0.25)],
)
def test_durations(text: str, value: float) -> None:
    assert units.parse_seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "h", "-5s", "5 weeks", "1e3s", "nan s", "24H"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="24h"):
        units.parse_seconds(text)


def test_sizes_and_rates() -> None:
    assert (units.size_bytes("32GiB"), units.size_bytes("1.5 KB"), units.size_bytes("7B")) == (
        32 * 2**30,
        1500,
        7,
    )
    assert units.size_bytes("9" * 400 + "TB") > 2**63
    assert units.bytes_per_second("100Mbit/s") == 12.5e6
    for text in ("32", "32 gb", "GiB", "-1GB"):
        with pytest.raises(ValueError, match="32GiB"):
            units.size_bytes(text)


def test_hours_pass_midnight_and_hold_no_time_zone() -> None:
    night = units.Hours.parse_hours("18:00-07:00")
    assert [night.include(time(hour)) for hour in (17, 18, 0, 6, 7)] == [False, True, True, True, False]
    day = units.Hours.parse_hours(" 07:30 - 18:00 ")
    assert [day.include(moment) for moment in (time(7, 29), time(7, 30), time(18))] == [False, True, False]
    assert units.Hours.parse_hours("00:00-00:00").include(time(5))
    for text in ("18-07", "18:00", "29:00-07:00", "18:00+01:00-07:00", "18:00-07:00-08:00"):
        with pytest.raises(ValueError, match="HH:MM"):
            units.Hours.parse_hours(text)


@given(st.integers(0, 10**7))
def test_times_left_read_back_to_the_second(value: int) -> None:
    parts = [int(part) for part in units.human_seconds(value).split(":")]
    assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == value


def test_figures_for_people() -> None:
    assert [units.human_seconds(value) for value in (0, 5, 95, 3700, -3)] == [
        "0:00",
        "0:05",
        "1:35",
        "1:01:40",
        "0:00",
    ]
    assert [units.human_bytes(value) for value in (12, 1536, 2**40)] == ["12 B", "1.5 KiB", "1.0 TiB"]


def test_secrets_come_from_files_and_credentials_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "konsil_password").write_text("s3cret\n")  # as systemd names a file of a loaded folder
    for reference in ("s3cret", f"file:{tmp_path}/key", "credential:key", "credential:password"):
        address = settings.parse_settings({"password": reference}, BrokerAddress, "x")
        assert address.resolved_password() == "s3cret"
        assert "s3cret" not in repr(address)
    (tmp_path / "binary").write_bytes(b"\xff")
    for reference in (
        "credential:other",
        "credential:binary",
        f"file:{tmp_path}/none",
        f"file:{tmp_path}/binary",
    ):
        with pytest.raises(ConfigError, match=r"broker\.password"):
            settings.parse_settings({"password": reference}, BrokerAddress, "x").resolved_password()
    with pytest.raises(ConfigError) as caught:
        settings.parse_settings({"password": 12345}, BrokerAddress, "x")
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://proxy:99999", "http://proxy:0", "http://a:b:80", "http://[zz]:80"])
def test_a_proxy_with_a_port_or_host_that_cannot_be_is_refused_where_it_is_written(proxy: str) -> None:
    with pytest.raises(ConfigError, match="with a port from 1 to 65535"):
        settings.parse_settings({"proxy": proxy, "ca": "ca.pem"}, BrokerAddress, "site.toml")
