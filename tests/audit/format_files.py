"""The experiment files of the kept formats: what a researcher writes, as TOML. One dictionary, file name → content.

`defaults-written` says what `minimal` leaves out: both are one experiment. `every-key` names each key that this version
knows, none with its default. A later format adds files for its newer keys.
"""

from __future__ import annotations

import tomllib
from typing import Any

from pydantic import BaseModel

from messages.experiment import Experiment

MINIMAL = """\
schema = 1
id = "kept-minimal"
sites = ["site-a", "site-b", "site-c"]

[task]
kind = "segmentation"
channels = ["T1"]
regions = { WT = ["ED"] }

[data]
dataset = "glioma"

[net]
name = "UNet"

[rounds]
count = 2
"""

DEFAULTS_WRITTEN = """\
schema = 1
id = "kept-minimal"
purpose = ""
approval = ""
seed = 0
sites = ["site-a", "site-b", "site-c"]
keep_updates = "all"

[task]
kind = "segmentation"
channels = ["T1"]
activation = "sigmoid"
regions = { WT = ["ED"] }

[data]
dataset = "glioma"
split = { train = 0.7, validation = 0.1, test = 0.2 }
least_cases = 1
least_used_share = 0.0

[net]
name = "UNet"

[preprocessing]
orientation = "RAS"
crop = "foreground"
normalise = "zscore-nonzero"

[augmentation]
flip = 0.0
scale_intensity = 0.0
shift_intensity = 0.0
noise = 0.0

[training]
patch = [64, 64, 64]
patches_per_case = 1
foreground_share = 0.33
batch = 2
loss = "dice+bce"
optimizer = { name = "Adam", lr = 1e-3, weight_decay = 0.0, momentum = 0.9, reset = true }
schedule = { name = "constant", over = "rounds", power = 0.9, warmup_rounds = 0 }
precision = "float32"

[evaluation]
every = 1
overlap = 0.5
metrics = ["dice"]
select_by = "validation.dice.mean"

[rounds]
count = 2
enrol_within = "24h"
train_within = "6h"
at_deadline = "extend"
extensions = 2

[plan]
kind = "aggregation"
strategy = "FedAvg"
weight_by = "cases_used"
weight_cap = 1.0

[quorum]
least_sites = "all"
least_case_share = 0.0

[privacy]
secure_aggregation = false

[wire]
codec = "float32"
"""

EVERY_KEY = """\
# Every key that this version knows, none with its default where it has another value.
schema = 1
id = "kept-every-key"
purpose = "Tumoren im Gehirn: Größe über die Zeit"
approval = "EC-2099-001"
expires = 2099-12-31
seed = 9007199254740993
sites = ["site-c", "site-a", "site-b"]
keep_updates = 7

[task]
kind = "segmentation"
channels = ["T1c", "T1", "FLAIR"]
activation = "softmax"
[task.regions]                  # their order is that of the net's outputs
TC = ["NCR", "ET"]
ED = ["ED"]

[data]
dataset = "glioma-2"
split = { train = 0.5, validation = 0.25, test = 0.25 }
least_cases = 12
least_used_share = 0.5

[net]
name = "SegResNet"
init_filters = 16
blocks_down = [1, 2, 2]
blocks_up = [1, 1]
dropout = 0.125

[preprocessing]
orientation = "LPS"
spacing_mm = [1.0, 1.5, 2.0]
crop = "none"
normalise = "zscore"

[augmentation]
flip = 0.5
scale_intensity = 0.1
shift_intensity = 0.2
noise = 0.05

[training]
local_steps = 150
patch = [96, 64, 32]
patches_per_case = 4
foreground_share = 0.5
batch = 3
loss = "dice+ce"
optimizer = { name = "SGD", lr = 0.01, weight_decay = 1e-5, momentum = 0.99, reset = false }
schedule = { name = "poly", over = "rounds", power = 0.75, warmup_rounds = 3 }
precision = "amp"
clip_norm = 12

[evaluation]
every = 5
overlap = 0.25
metrics = ["dice", "hd95"]
select_by = "last"

[rounds]
count = 50
enrol_within = "90m"
train_within = "2h"
grace = "30s"
at_deadline = "fail"
extensions = 0

[plan]
kind = "aggregation"
strategy = "FedAvg"
weight_by = "equal"
weight_cap = 0.6

[quorum]
least_sites = 2
least_case_share = 0.4

[privacy]
secure_aggregation = false

[wire]
codec = "bfloat16-difference"
"""

EPOCHS = """\
schema = 1
id = "kept-epochs"
seed = 3
sites = ["site-a", "site-b"]
keep_updates = "none"

[task]
kind = "segmentation"
channels = ["T1", "T2"]
[task.regions]
WT = ["NCR", "ED", "ET"]
ET = ["ET"]

[data]
dataset = "glioma"

[net]
name = "UNet"
channels = [8, 16, 32]
strides = [2, 2]
norm = "group"
num_res_units = 0
act = "LEAKYRELU"
kernel_size = 5

[training]
local_epochs = 2
optimizer = { name = "AdamW", weight_decay = 0.01 }
schedule = { name = "cosine" }

[rounds]
count = 4
enrol_within = 3600
grace = 0

[quorum]
least_sites = "all"

[wire]
codec = "bfloat16"
"""

OTHER_ORDER = """\
# "kept-epochs" with its two regions the other way round: the order of the outputs, and so another experiment.
""" + EPOCHS.replace('WT = ["NCR", "ED", "ET"]\nET = ["ET"]\n', 'ET = ["ET"]\nWT = ["NCR", "ED", "ET"]\n')

EXACT = (
    MINIMAL.replace("kept-minimal", "kept-exact") + '\n[wire]\ncodec = "exact"          # what "float32" was called\n'
)

REHEARSAL = """\
schema = 1
id = "kept-rehearsal"
sites = ["site-a"]
task = { kind = "segmentation", channels = ["T1"], regions = { WT = ["ED"] } }
data = { dataset = "none" }
net = { name = "Rehearsal", tensors = 3, kilobytes = 12 }
rounds = { count = 1 }
"""

SEQUENTIAL = EVERY_KEY.replace(
    EVERY_KEY[EVERY_KEY.index("[plan]") : EVERY_KEY.index("[quorum]")],
    """[plan]
kind = "sequential"
order = "size"

""",
).replace("kept-every-key", "kept-sequential")
"""The keys that go with another plan than `every-key` has."""

ENSEMBLE = SEQUENTIAL.replace('kind = "sequential"\norder = "size"', 'kind = "ensemble"\ncombine = "majority"').replace(
    "kept-sequential", "kept-ensemble"
)
ASYNCHRONOUS = SEQUENTIAL.replace(
    'kind = "sequential"\norder = "size"',
    'kind = "asynchronous"\nbuffer = 2\nstaleness = "linear"\nmax_staleness = 3',
).replace("kept-sequential", "kept-asynchronous")
ASYNCHRONOUS = ASYNCHRONOUS.replace('select_by = "validation.dice.mean"', 'select_by = "last"')
FROM_A_MODEL = EVERY_KEY.replace("[net]\n", f'[net]\nfrom = "sha256:{"0" * 64}"\n').replace(
    "kept-every-key", "kept-from-a-model"
)
WHOLE_IMAGES = (
    EVERY_KEY.replace(
        EVERY_KEY[EVERY_KEY.index("[task]") : EVERY_KEY.index("[data]")],
        """[task]
kind = "classification"
channels = ["T1c", "T1", "FLAIR"]
classes = ["low", "high"]
labels = "ordinal"

""",
    )
    .replace('normalise = "zscore"', 'normalise = "zscore"\nsize = [96, 64, 32]\nfit = "pad"')
    .replace('loss = "dice+ce"', 'loss = { name = "focal", gamma = 1.5 }')
    .replace('metrics = ["dice", "hd95"]', 'metrics = ["auc", "kappa"]')
    .replace("kept-every-key", "kept-whole-images")
)
"""The keys that go with another task than `every-key` has."""
OWN_PROGRAM = WHOLE_IMAGES.replace("[training]\n", '[training]\ntrainer = "sgd"\n').replace(
    "kept-whole-images", "kept-own-program"
)

SUPERSEDING = (
    MINIMAL.replace("kept-minimal", "kept-superseding").replace("[net]\n", f'[net]\nfrom = "sha256:{"0" * 64}"\n')
    + f"""
[supersedes]
experiment = "kept-minimal"
rounds = 6
model = "sha256:{"1" * 64}"
after = 4
reason = "excluded"

[card]
developer = "stated"
contact = "stated"
license = "stated"
stage = "stated"
regulatory = "stated"
intended_use = "stated"
intended_users = "stated"
how_to_use = "stated"
population = "stated"
out_of_scope = "stated"
risks = "stated"
biases = "stated"
risk_level = "stated"
data_source = "stated"
bias_mitigation = "stated"
maintenance = "stated"
funding = "stated"
consulted = "stated"
resources = "stated"
"""
)
"""What makes another experiment's model anew."""

FIXED_INTENSITIES = EVERY_KEY.replace(
    'normalise = "zscore"',
    'normalise = "zscore"\nintensities = [{ channel = 1, low = -100.0, high = 300.0, mean = 70.5, deviation = 44.0 }]',
).replace("kept-every-key", "kept-fixed-intensities")
AUTO = MINIMAL.replace("kept-minimal", "kept-auto")
AUTO = AUTO.replace(AUTO[AUTO.index("[net]") : AUTO.index("\n\n", AUTO.index("[net]"))], '[net]\nname = "auto"')
"""A net that follows from the sites' data: its form is that of what the file says."""
EXPERT = (
    EVERY_KEY.replace("kept-every-key", "kept-expert")
    .replace(
        "[augmentation]\n",
        """[augmentation]
preset = "nnunet-without-mirroring"
rotation = { chance = 0.25, between = [-15, 15] }
scaling = { chance = 0.5, between = [0.5, 2] }
elastic = { chance = 0.125, between = [0, 4] }
gaussian_noise = { chance = 0.5, between = [0, 0.25] }
blur = { chance = 0.5, between = [0.25, 1.5] }
brightness = { chance = 0.5, between = [0.5, 2] }
contrast = { chance = 0.5, between = [0.5, 2] }
low_resolution = { chance = 0.5, between = [0.25, 1] }
gamma_inverted = { chance = 0.5, between = [0.5, 2] }
gamma = { chance = 0.5, between = [0.5, 2] }
""",
    )
    .replace('name = "SGD"', 'name = "NAdam", beta1 = 0.875, beta2 = 0.75, epsilon = 1e-6')
    .replace('name = "poly"', 'name = "step", every_rounds = 10, gamma = 0.5')
    .replace("clip_norm = 12", 'clip_norm = 12\naccumulate = 2\nema = 0.75\nforeground_by = "batch"')
    .replace('select_by = "last"', 'select_by = "last"\nmirror = true')
    .replace("extensions = 0", "extensions = 0\npatience = 5")
)
"""What experts ask of local training."""
EXPERT_SGD = (
    EVERY_KEY.replace("kept-every-key", "kept-expert-sgd")
    .replace('name = "SGD"', 'name = "SGD", nesterov = false')
    .replace('name = "poly"', 'name = "step", at_rounds = [10, 20]')
)

SECURE = (
    MINIMAL.replace("kept-minimal", "kept-secure")
    + """
[quorum]
least_sites = 3

[privacy]
secure_aggregation = "masks"
threshold = "majority"
exchange_within = 300
update_norm_max = 2.5
"""
)
"""Form 5: masks."""

PRIVATE = (
    MINIMAL.replace("kept-minimal", "kept-private")
    + """
[privacy.dp]
unit = "patient"
noise_multiplier = 1.5
clip_norm = 0.5
sample_rate = 0.2
patches_per_patient = 3
epsilon_max = 8.0
delta = 1e-6
noise = "own"
colluding = 0
"""
)
"""Form 5: noise for each patient."""

FILES = {
    "minimal.toml": MINIMAL,
    "defaults-written.toml": DEFAULTS_WRITTEN,
    "every-key.toml": EVERY_KEY,
    "epochs.toml": EPOCHS,
    "other-order.toml": OTHER_ORDER,
    "exact.toml": EXACT,
    "rehearsal.toml": REHEARSAL,
    "sequential.toml": SEQUENTIAL,
    "ensemble.toml": ENSEMBLE,
    "asynchronous.toml": ASYNCHRONOUS,
    "from-a-model.toml": FROM_A_MODEL,
    "whole-images.toml": WHOLE_IMAGES,
    "superseding.toml": SUPERSEDING,
    "own-program.toml": OWN_PROGRAM,
    "fixed-intensities.toml": FIXED_INTENSITIES,
    "auto.toml": AUTO,
    "expert.toml": EXPERT,
    "expert-sgd.toml": EXPERT_SGD,
    "secure.toml": SECURE,
    "private.toml": PRIVATE,
}

EITHER_OR = {"local_epochs"}
"""Keys that do not go with another one that `every-key` has."""


def check_files() -> None:
    """Fail where `every-key` and its kin do not name every key, or `other-order` is no other file."""
    kin = (EVERY_KEY, SEQUENTIAL, ENSEMBLE, ASYNCHRONOUS, FROM_A_MODEL, WHOLE_IMAGES, SUPERSEDING, OWN_PROGRAM)
    kin += (FIXED_INTENSITIES, EXPERT, EXPERT_SGD, SECURE, PRIVATE)
    unnamed = [set(_unnamed(Experiment, tomllib.loads(text), "")) for text in kin]
    assert set.intersection(*unnamed) == set()
    assert OTHER_ORDER.count("WT") == 1
    assert OTHER_ORDER.index("ET = ") < OTHER_ORDER.index("WT = ")


def _unnamed(model: type[BaseModel], content: dict[str, Any], where: str) -> list[str]:
    missing: list[str] = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in content:
            missing += [] if key in EITHER_OR else [where + key]
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            missing += _unnamed(field.annotation, content[key], f"{where}{key}.")
    return missing
