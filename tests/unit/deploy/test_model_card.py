"""A model card: figures from the log alone, gaps that are seen, nobody's text as markup."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from storytelling import MANIFEST, PLAIN, complete, recruited

from deploy.report.card import CardFacts, read_facts, render_card, write_metadata
from deploy.session.history import story_of_entries
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, RequestError
from nets.model_file import read_metadata, save_model

STORY = story_of_entries(complete().entries, "try")


def metadata_of(card: str) -> dict[str, object]:
    lines = card.split("---\n")[1].splitlines()
    return {key: json.loads(value) for key, _, value in (line.partition(": ") for line in lines)}


def test_the_card_s_metadata_hold_the_log_s_test_score() -> None:
    found = metadata_of(render_card(STORY, CardFacts(license="apache-2.0")))
    assert found["license"] == "apache-2.0"
    assert found["pipeline_tag"] == "image-segmentation"
    (index,) = found["model-index"]  # type: ignore[misc]
    (metric,) = index["results"][0]["metrics"]  # type: ignore[index]
    assert STORY.test is not None
    assert metric["value"] == round(STORY.test.mean or 0, 6)


def test_the_card_names_the_model_and_states_what_nobody_said() -> None:
    card = render_card(STORY, CardFacts(developer="Clinic A"))
    assert f"digest `{STORY.model_digest}`" in card
    assert "- **Developer:** Clinic A" in card
    assert "- **Known biases:** not stated" in card


def test_text_of_people_makes_no_markup_and_no_second_line() -> None:
    card = render_card(STORY, CardFacts(risks="<script>x</script>\n## Heading | cell"))
    (line,) = [one for one in card.splitlines() if "script" in one]
    assert line == "- **Known risks and limitations:** &lt;script>x&lt;/script> ## Heading \\| cell"


def test_text_of_people_makes_no_link_no_picture_and_turns_no_line_round() -> None:
    card = render_card(STORY, CardFacts(contact="![x](https://example.org/seen.png) \u202egro"))
    assert "](http" not in card
    assert "\u202e" not in card


def test_without_a_test_score_the_card_says_so() -> None:
    card = render_card(replace(STORY, evaluations={}), CardFacts())
    assert "Test scores: not stated" in card
    assert "model-index" not in metadata_of(card)


def test_a_model_of_a_program_of_the_sites_own_is_described_as_one() -> None:
    """Neither MONAI nor `konsil predict` knows what its tensors mean, and what it sees may be numbers of a table."""
    plain = {
        **PLAIN,
        "task": {"kind": "regression", "channels": ["age", "volume"], "quantity": "outcome"},
        "net": {"name": "Tensors", "tensors": [{"name": "weight", "shape": [2, 1]}]},
        "training": {"trainer": "linear"},
        "evaluation": {"select_by": "last"},
    }
    story = replace(STORY, experiment=Experiment.model_validate(plain), evaluations={})
    card = render_card(story, CardFacts())
    assert metadata_of(card)["tags"] == ["federated-learning"]
    assert "- **How to use:** with the program `linear` of the sites, which `konsil predict` does not run" in card
    assert "- **Model type:** Tensors, trained by the program `linear` of the sites" in card
    assert "- **Input:** age, volume, as the program `linear` of the sites reads them" in card
    assert "images" not in card.split("## Settings")[0]


def test_a_classification_by_a_program_of_the_sites_own_has_no_tag_of_images() -> None:
    plain = {
        **PLAIN,
        "task": {"kind": "classification", "channels": ["age"], "classes": ["dead", "alive"]},
        "net": {"name": "Tensors", "tensors": [{"name": "weight", "shape": [1, 2]}]},
        "training": {"trainer": "linear"},
        "evaluation": {"select_by": "last"},
    }
    story = replace(STORY, experiment=Experiment.model_validate(plain), evaluations={})
    assert "pipeline_tag" not in metadata_of(render_card(story, CardFacts()))


def test_an_experiment_without_a_model_has_no_card() -> None:
    with pytest.raises(RequestError, match="has no model"):
        render_card(story_of_entries(recruited().entries, "try"), CardFacts())


def test_a_key_that_a_card_does_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text('developper = "Clinic A"\n')
    with pytest.raises(ConfigError, match="developper"):
        read_facts(path)


def test_the_experiment_files_card_is_stated_and_what_is_said_later_counts_more() -> None:
    assert STORY.experiment is not None
    told = Experiment.model_validate({**PLAIN, "card": {"developer": "Clinic A", "risks": "small lesions"}})
    card = render_card(replace(STORY, experiment=told), CardFacts(developer="Clinic B"))
    assert "- **Developer:** Clinic B" in card
    assert "- **Known risks and limitations:** small lesions" in card
    assert "- **Known biases:** not stated" in card


def test_a_file_without_a_card_keeps_its_form_and_digest() -> None:
    plain = Experiment.model_validate(PLAIN)
    assert plain.card is None
    assert "card" not in plain.as_plain()
    assert Experiment.model_validate({**PLAIN, "card": {}}).digest() != plain.digest()


def test_the_card_names_the_newest_entry_of_the_log_that_its_figures_come_from() -> None:
    assert f"`{complete().entries[-1].hash.hex()}`" in render_card(STORY, CardFacts())


def test_monais_metadata_have_the_logs_versions(tmp_path: Path) -> None:
    assert STORY.experiment is not None
    content = np.arange(300, dtype="<f4").view(np.uint8)
    save_model(tmp_path / "try.safetensors", STORY.experiment, MANIFEST, content, round_number=2)
    write_metadata(STORY, read_metadata(tmp_path / "try.safetensors"), tmp_path / "try.metadata.json")
    told = json.loads((tmp_path / "try.metadata.json").read_text())
    assert told["name"] == "try"
    platform = STORY.sites["site-a"].platform
    assert platform is not None
    assert told["pytorch_version"] == platform.versions.get("torch", "not stated")
    assert told["network_data_format"]["inputs"]["image"]["num_channels"] == len(STORY.experiment.task.channels)
