"""What an attack on updates found, as one page: the picture beside each reconstruction, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from deploy.report.html import make_table
from deploy.report.page import frame_page

WORDS: Mapping[str, tuple[str, str]] = {
    "plain": (
        "The update as it is",
        "Without masks and noise the coordinator sees each site's update. So does whoever reads its disk.",
    ),
    "masked": (
        "The update under masks",
        "What leaves a site under secure aggregation. Every number is as likely as any other.",
    ),
    "sum": (
        "The sum of all sites' updates",
        "What masks leave to be seen. It hides a site among the others: with few sites, or where all but one work "
        "together, it hides little.",
    ),
    "noised": (
        "The update with noise",
        "What leaves a site under differential privacy: the update clipped, and noise in every weight.",
    ),
    "guess": (
        "No update at all",
        "The mean of the other patients: so like is anybody. A picture that is less like may still show a part.",
    ),
}
"""Attack → its heading, and what it shows."""


def render_attack_page(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        found: what `inversion.attack_updates` gave. asked: what it was asked.
    """
    truth = _make_figure("The patient's image", "What the site trained on.", found["truth"])
    figures = [_make_figure(*WORDS[name], one["picture"]) for name, one in found["attacks"].items()]
    rows = [[WORDS[name][0], f"{one['psnr']:.1f}", f"{one['ssim']:.2f}"] for name, one in found["attacks"].items()]
    table = make_table("How like the patient's image", ["what the attacker has", "PSNR, dB", "SSIM"], rows)
    note = "<p class=note>PSNR and SSIM are higher the more alike. An SSIM of 1 is the image itself.</p>"
    return frame_page(
        "Konsil: what an update shows of a patient",
        sum_up(found),
        [
            ("Pictures", f'<div class="charts pictures">{truth}{"".join(figures)}</div>{_STYLE}'),
            ("Figures", table + note),
            ("How it was done", _tell_how(found, asked)),
        ],
        pictures=True,
    )


def sum_up(found: Mapping[str, Any]) -> str:
    """What was found, in a sentence."""
    likeness = {name: one["ssim"] for name, one in found["attacks"].items()}
    guess = likeness["guess"]
    shown = [WORDS[name][0].lower() for name in ("plain", "masked", "sum", "noised") if likeness[name] > guess]
    if not shown:
        return "By SSIM no update gave an image that is more like the patient's than the mean of other patients."
    return f"By SSIM more like the patient's image than the mean of other patients: {', '.join(shown)}."


_STYLE = (
    "<style>.pictures{grid-template-columns:repeat(auto-fit,minmax(14rem,1fr))}"
    ".pictures img{width:14rem;max-width:100%;image-rendering:pixelated;display:block;background:#000}"
    ".pictures p{margin:.2rem 0 1rem;font-size:.9rem}</style>"
)


def _make_figure(title: str, text: str, picture: str) -> str:
    return (
        f'<figure><img alt="{escape(title)}" src="{picture}"><figcaption>{escape(title)}</figcaption>'
        f"<p>{escape(text)}</p></figure>"
    )


def _tell_how(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    size = " × ".join([str(asked["edge"])] * asked["dims"])
    images = "the files that were named" if asked["data"] else "invented patients"
    lines = [
        f"Images: {images}, {size} pixels. Sites: {found['sites']}, one image each.",
        f"Net: {found['weights']:,} weights, not trained yet. Local steps: {asked['local_steps']}.",
        f"Noise: {asked['noise_multiplier']:g} times the length to which the update is clipped, in each weight.",
        f"Attack: {asked['iterations']} iterations of Geiping et al. 2020 (cosine, total variation).",
        "The attacker gets more than he would have: a small net, one image a site, each image's class, and of two "
        "attempts the better one is shown.",
        "A trained, larger net and more images a step make the attack harder, but nobody can promise how much.",
    ]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
