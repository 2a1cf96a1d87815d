"""A model card: Markdown under the headings of CHAI's Applied Model Card, with Hugging Face's metadata before it.

Figures come from the event log alone, whose newest entry the card names by its hash. What people alone know comes from
`[card]` of the experiment file, or from a file of theirs; what nobody states reads "not stated", so that a gap is seen.

Sources: CHAI, Applied Model Card (Coalition for Health AI, 2025); Mitchell et al. 2019, "Model cards for model
reporting"; huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.report.html import format_number
from deploy.story.figures import list_settings
from deploy.story.parts import TestScores
from deploy.story.story import ExperimentStory
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError, WorkFailed
from messages.ground.settings import read_settings
from messages.ground.shown import escape_controls
from messages.sections import CardFacts
from nets.bundle import describe_bundle

NOT_STATED = "not stated"
_TAGS = {"segmentation": "image-segmentation", "classification": "image-classification"}
"""Task → Hugging Face's pipeline tag; a regression has none."""


def read_facts(path: Path | None) -> CardFacts:
    """Read card.toml; ConfigError lists every mistake. None: nobody states anything."""
    return CardFacts() if path is None else read_settings(path, CardFacts)


def write_card(story: ExperimentStory, path: Path, facts: CardFacts) -> None:
    """Write the card, whole or not at all.

    Raises:
        RequestError: the experiment has no model. WorkFailed: the file cannot be written.
    """
    page = render_card(story, facts)
    try:
        replace_file(path, page.encode())
    except OSError as error:
        raise WorkFailed(f"the card cannot be written ({error.strerror})", where=str(path)) from None


def render_card(story: ExperimentStory, facts: CardFacts) -> str:
    """The card as text; RequestError where the experiment has no model."""
    experiment = story.experiment
    if experiment is None or story.model_digest is None:
        raise RequestError("has no model, so there is nothing to describe", where=story.id)
    if experiment.card is not None:  # what was stated later counts more
        facts = experiment.card.model_copy(update=facts.model_dump(exclude_defaults=True))
    head = [_metadata(story, facts), f"# {story.id}", _state(facts.stage, "Release stage: ") + "  "]
    head.append("For research only: not a medical device, and not for diagnosis.")
    return "\n".join(
        [
            *head,
            *_section("Release", _release(story, facts)),
            *_section("Uses and directions", _uses(story, facts)),
            *_section("Warnings", _warnings(story, facts)),
            *_section("Trust ingredients", _ingredients(story, facts)),
            *_key_metrics(story),
            *_settings(story),
            *_section("Resources", {"Resources": facts.resources, "How to verify": _verify(story)}),
            "",
        ]
    )


def write_metadata(story: ExperimentStory, about: Mapping[str, Any], path: Path) -> None:
    """Write MONAI's metadata.json, its versions those that the log has; whole or not at all.

    Args:
        about: what the model file says of itself (`nets.model_file.read_metadata`).

    Raises:
        ConfigError: the experiment names something in other than plain words. WorkFailed: it cannot be written.
    """
    told = [one.platform.versions for one in story.sites.values() if one.platform]
    versions = {
        name: max((one.get(name, "") for one in told), key=_rank_version, default="")
        for name in ("monai", "torch", "numpy")
    }
    content = json.dumps(describe_bundle(about, {k: v or NOT_STATED for k, v in versions.items()}), indent=2)
    try:
        replace_file(path, content.encode())
    except OSError as error:
        raise WorkFailed(f"cannot be written ({error.strerror})", where=str(path)) from None


def _rank_version(version: str) -> list[int]:
    """2.10 comes after 2.9."""
    return [int(part) for part in re.findall(r"[0-9]{1,9}", version)]


def _program_of(story: ExperimentStory) -> str:
    """The program of the sites' own that trained it, which alone knows what it sees; "": Konsil's own trainer did."""
    trainer = None if story.experiment is None else story.experiment.training.trainer
    return "" if trainer is None else f"the program `{trainer}` of the sites"


def _metadata(story: ExperimentStory, facts: CardFacts) -> str:
    """Hugging Face's metadata, as YAML whose values are JSON (YAML 1.2 reads them)."""
    experiment, test = story.experiment, story.test
    kind = "" if experiment is None else experiment.task.kind
    tags = {} if _program_of(story) else _TAGS
    told: dict[str, Any] = {
        "license": facts.license or "other",
        "library_name": "konsil",
        "tags": ["federated-learning"] if _program_of(story) else ["medical-imaging", "federated-learning", "monai"],
    }
    if kind in tags:
        told["pipeline_tag"] = tags[kind]
    if experiment is not None:
        told["datasets"] = [experiment.data.dataset]
    if test is not None and test.mean is not None:
        metric = {"type": test.reader.metric, "value": round(test.mean, 6), "name": f"test {test.reader.title}"}
        dataset = {"type": "private", "name": f"test cases of {len(test.sites)} sites"}
        result = {"task": {"type": tags.get(kind, kind)}, "dataset": dataset, "metrics": [metric]}
        told["metrics"] = [test.reader.metric]
        told["model-index"] = [{"name": story.id, "results": [result]}]
    lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=True)}\n" for key, value in told.items())
    return f"---\n{lines}---\n"


def _release(story: ExperimentStory, facts: CardFacts) -> dict[str, str]:
    ended = "" if story.ended is None else f"{datetime.fromtimestamp(story.ended, UTC):%Y-%m-%d}"
    return {
        "Developer": facts.developer,
        "Contact": facts.contact,
        "Release date": ended,
        "Version": f"experiment `{story.id}`, model after {story.model_round} rounds, digest `{story.model_digest}`",
        "Regulatory approval": facts.regulatory,
    }


def _uses(story: ExperimentStory, facts: CardFacts) -> dict[str, str]:
    experiment = story.experiment
    purpose = "" if experiment is None else experiment.purpose
    usage, program = "`konsil predict model.safetensors IMAGES`", _program_of(story)
    if program:
        usage = f"with {program}, which `konsil predict` does not run"
    return {
        "Intended use": facts.intended_use or (f"{purpose} (the experiment's purpose)" if purpose else ""),
        "Intended users": facts.intended_users,
        "How to use": facts.how_to_use or usage,
        "Patient population": facts.population,
        "Out of scope": facts.out_of_scope,
    }


def _warnings(story: ExperimentStory, facts: CardFacts) -> dict[str, str]:
    test = story.test
    measured = ""
    if test is not None and test.worst is not None:
        site, score = test.worst
        measured = f"{test.reader.title} at the worst site ({site}): {format_number(score)}"
    withheld = "" if test is None or not test.withheld else f"scores withheld by {', '.join(test.withheld)}"
    return {
        "Known risks and limitations": facts.risks,
        "Measured": "; ".join(filter(None, (measured, withheld))),
        "Known biases": facts.biases,
        "Clinical risk level": facts.risk_level,
    }


def _ingredients(story: ExperimentStory, facts: CardFacts) -> dict[str, str]:
    experiment = story.experiment
    if experiment is None:
        return {}
    plan, cases = experiment.plan, {name: one.cases for name, one in story.sites.items() if name in story.joined}
    trained = [f"{name} ({told.train})" for name, told in sorted(cases.items()) if told is not None]
    versions = {f"{k} {v}" for one in story.sites.values() if one.platform for k, v in one.platform.versions.items()}
    channels, program = ", ".join(experiment.task.channels), _program_of(story)
    kept = "cases" if program else "images"
    return {
        "Outputs": f"{experiment.task.kind}: {', '.join(experiment.task.targets)}",
        "Model type": experiment.net.name
        + (f", trained by {program}" if program else f" ({experiment.training.dims}D)"),
        "Starts from": experiment.net.origin or "weights drawn from the experiment's seed",
        "Input": f"{channels}, as {program} reads them" if program else f"images of {channels}",
        "Data source": facts.data_source,
        "Training data": f"{len(trained)} sites, training cases: {', '.join(trained)}; {kept} never left them",
        "Training": f"{plan.words}, {plan.strategy.name}, {story.completed_rounds} rounds",
        "Approval": experiment.approval,
        "Software": ", ".join(sorted(versions)),
        "Bias mitigation": facts.bias_mitigation,
        "Maintenance": facts.maintenance,
        "Funding": facts.funding,
        "Consulted": facts.consulted,
    }


def _key_metrics(story: ExperimentStory) -> Iterable[str]:
    test = story.test
    yield "\n## Key metrics\n"
    if test is None or test.mean is None:
        yield f"Test scores: {NOT_STATED}"
        return
    yield f"Test cases of each site, read once, at the end. Main metric: {test.reader.title}.\n"
    targets = list(test.by_target)
    yield f"| site | cases | {test.reader.mean_title} |{''.join(f' {name} |' for name in targets)}"
    yield f"|---|---|---|{'---|' * len(targets)}"
    for site, mean, by_target, n in _score_rows(test):
        cells = "".join(f" {format_number(by_target.get(name))} |" for name in targets)
        yield f"| {site} | {n} | {format_number(mean)} |{cells}"
    for one in test.reader.read_others(test.pooled):
        yield f"\n{one.metric.title}: {one.words}"


def _score_rows(test: TestScores) -> Iterable[tuple[str, float | None, Mapping[str, float | None], int]]:
    for site, scores in test.sites.items():
        if scores.withheld:
            yield f"{site} (withheld)", None, {}, scores.cases
        else:
            yield site, test.reader.headline_score(scores), test.reader.by_target(scores), scores.cases
    yield "**all cases**", test.mean, test.by_target, test.n
    if test.unweighted_mean is not None:
        yield "mean of sites", test.unweighted_mean, {}, len(test.site_means)


def _settings(story: ExperimentStory) -> Iterable[str]:
    if story.experiment is None:
        return
    settings = {key: value for key, value in list_settings(story).items() if not key.startswith("card.")}
    yield "\n## Settings\n"
    yield "| key | value |\n|---|---|"
    for key, value in sorted(settings.items()):
        yield f"| `{key}` | {_escape(value)} |"


def _verify(story: ExperimentStory) -> str:
    return (
        f"the event log says how this model came about: `konsil audit replay {story.id}` derives it again; the "
        f"experiment file's digest is `{story.digest}`"
        + (f"; figures from its event log up to the entry `{story.log_hash}`" if story.log_hash else "")
    )


def _section(title: str, told: Mapping[str, str]) -> Iterable[str]:
    yield f"\n## {title}\n"
    for name, words in told.items():
        yield f"- **{name}:** {_state(words)}"


def _state(words: str, before: str = "") -> str:
    return before + (_escape(words) if words else NOT_STATED)


def _escape(text: str) -> str:
    """Text of a person or a file in one line of Markdown, without markup of its own but code."""
    plain = escape_controls(" ".join(text.split())).replace("](", "]\\(")  # no link, and no picture from elsewhere
    return plain.replace("|", "\\|").replace("<", "&lt;")
