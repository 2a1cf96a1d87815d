"""Which series of a study is T1, T1c, T2 or FLAIR, and which are left out; `roles_table` holds the rules.

The site's own table comes first (though nothing takes a series with burned-in annotation), then the header: image type,
acquisition contrast, sequence, times and angle; then whether a contrast agent was given. Descriptions leave out, break
ties and confirm; where they contradict the header, the series is ambiguous. Nothing is ever taken on its description
alone. Every answer follows from the facts alone, whatever the order of the series.
"""

from __future__ import annotations

from collections.abc import Mapping

from messages.reasons import Reason
from site_agent.dicom.base import LeftOut
from site_agent.dicom.config import Role
from site_agent.dicom.roles import table
from site_agent.dicom.roles.facts import Facts, take_facts
from site_agent.dicom.roles.table import Rule, Weighting

__all__ = ["Facts", "assign_roles", "take_facts"]

_THICKNESS = 0.1
"""Thicknesses closer than this (mm) are equal."""


def assign_roles(facts_by_series: Mapping[str, Facts]) -> dict[str, Role | LeftOut]:
    """The role of each of a study's image series, or why it has none. Labels (SEG, RTSTRUCT) are not in the answer.

    Of several series for one role that is preferred which, in this order: the site's table names; is one volume rather
    than several over time; is three-dimensional; is axial, if it is not three-dimensional (as the consensus protocols
    ask, see `roles_table`); has thinner slices; is ORIGINAL rather than DERIVED; says that it repeats another. Where
    that leaves several, none is taken.
    """
    answer: dict[str, Role | LeftOut] = {}
    candidates: dict[Role, list[str]] = {}
    for series in sorted(facts_by_series):
        one = facts_by_series[series]
        if one.kind == "label":
            continue
        found = _assign_role(one)
        answer[series] = found
        if not isinstance(found, LeftOut):
            candidates.setdefault(found, []).append(series)
    for several in candidates.values():
        ranks = {series: _rank_of(facts_by_series[series]) for series in several}
        best = [series for series in several if ranks[series] == min(ranks.values())]
        for series in several:
            if series not in best:
                answer[series] = LeftOut(Reason.OTHER_SERIES_PREFERRED, f"one of {len(several)} for the same modality")
            elif len(best) > 1:
                answer[series] = LeftOut(Reason.AMBIGUOUS_SERIES, f"{len(best)} series are equally good")
    return answer


def _rank_of(one: Facts) -> tuple[bool, bool, bool, bool, float, bool, bool]:
    """Smaller is better. A thickness that is not given is worse than any."""
    return (
        not one.override,
        one.times > 1,
        not one.three_dimensional,
        not one.three_dimensional and one.plane != "axial",
        round(one.thickness / _THICKNESS) if one.thickness is not None else float("inf"),
        "DERIVED" in one.image_type,
        "repeat" not in one.words,
    )


def _assign_role(one: Facts) -> Role | LeftOut:
    if left_out := _burned_in(one):
        return left_out
    if one.override == "ignore":
        return LeftOut(Reason.IGNORED_SERIES, "the site's table leaves it out")
    if one.override:
        return one.override
    if left_out := _no_image(one):
        return left_out
    weighting = _tell_weighting(one)
    if isinstance(weighting, LeftOut):
        return weighting
    return _with_agent(one) if weighting == "T1" else weighting


def _burned_in(one: Facts) -> LeftOut | None:
    if one.burned_in:
        return LeftOut(Reason.BURNED_IN_ANNOTATION, "it says that annotation is burned in")
    if one.kind == "secondary-capture" and one.burned_in is None:
        return LeftOut(Reason.BURNED_IN_ANNOTATION, "a secondary capture that does not say whether text is burned in")
    return None


def _no_image(one: Facts) -> LeftOut | None:
    """What is no image of the kind that is trained on, whatever its weighting."""
    if one.kind == "secondary-capture":
        return LeftOut(Reason.SECONDARY_CAPTURE, "a secondary capture")
    if one.kind == "other" or not one.mr:
        return LeftOut(Reason.UNSUPPORTED_IMAGE, "no MR image")
    if "LOCALIZER" in one.image_type or "localizer" in one.words:
        return LeftOut(Reason.LOCALIZER, "a localizer")
    if set(one.image_type) & table.DERIVED_TYPES or {"DERIVED", "SECONDARY"} <= set(one.image_type):
        return LeftOut(Reason.DERIVED_IMAGE, "its image type says a map, reformat, projection or phase")
    if set(one.words) & table.DERIVED_WORDS:
        return LeftOut(Reason.DERIVED_IMAGE, "its description says a map, projection or subtraction")
    return None


def _tell_weighting(one: Facts) -> Weighting | LeftOut:
    other = (
        one.planar
        or one.angio
        or one.balanced
        or one.b is not None
        or one.contrast in table.OTHER_CONTRASTS
        or bool(set(one.image_type) & table.OTHER_TYPES)
        or bool(set(one.words) & table.LEAVES_OUT)
    )
    if other:
        return LeftOut(Reason.UNRECOGNISED_SERIES, "another technique, such as diffusion, perfusion or angiography")
    by_times = {rule.weighting for rule in table.RULES if _fits_rule(rule, one)}
    by_contrast = {table.CONTRASTS[one.contrast]} if one.contrast else set()
    found = by_times | by_contrast
    if not found:
        return LeftOut(Reason.UNRECOGNISED_SERIES, "no rule fits its sequence and times")
    if len(found) > 1:
        return LeftOut(Reason.AMBIGUOUS_SERIES, "its acquisition contrast and its times contradict each other")
    weighting = found.pop()
    named = set(one.words) & table.WEIGHTINGS
    if named and not named & table.CONFIRMS[weighting]:
        return LeftOut(Reason.AMBIGUOUS_SERIES, "its header and its description contradict each other")
    return weighting


def _fits_rule(rule: Rule, one: Facts) -> bool:
    return (
        one.echoes == (rule.echo,)
        and (rule.inversion is None or one.inversion == rule.inversion)
        and rule.tr.holds_value(one.tr)
        and rule.te.holds_value(one.te)
        and rule.ti.holds_value(one.ti)
        and rule.flip.holds_value(one.flip)
        and rule.field.holds_value(one.field)
        and (not rule.words or bool(rule.words & set(one.words)))
    )


def _with_agent(one: Facts) -> Role | LeftOut:
    """T1 or T1c: what the header says of the agent; where it says nothing, the description; where that is silent, T1.

    An agent that is not named means none (PS3.3, C.7.6.4: the module is there if one was given), unless the
    description says otherwise; two unenhanced candidates that differ in nothing are then ambiguous, not guessed.
    """
    before, after = "before" in one.words, "after" in one.words
    if one.agent is None:
        if before and after:
            return LeftOut(Reason.AMBIGUOUS_SERIES, "its description says both before and after contrast agent")
        return "T1c" if after else "T1"
    if (one.agent and before and not after) or (not one.agent and after and not before):
        return LeftOut(
            Reason.AMBIGUOUS_SERIES, "its header and its description contradict each other on contrast agent"
        )
    return "T1c" if one.agent else "T1"
