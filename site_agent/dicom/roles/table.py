"""The rules by which a series is T1, T2 or FLAIR-weighted, as data; `roles` applies them, `roles_facts` reads.

Times in milliseconds, angles in degrees. Where the figures come from:

- Ellingson et al. 2015, Neuro-Oncology 17(9):1188, and Kaufmann et al. 2020, Neuro-Oncology 22(6):757: the consensus
  protocols for brain tumours (3-D T1: inversion recovery gradient echo, flip 10-15; 2-D T2: TR > 2500, TE 80-120;
  2-D FLAIR: TR > 6000, TE 100-140, TI 2000-2500). The bounds here are wider: they must hold for hospitals' protocols of
  other years and fields, and for three-dimensional turbo spin echo, whose effective echo times are 300-560.
- Brown, Haacke et al., Magnetic Resonance Imaging: Physical Principles and Sequence Design, 2nd ed. 2014, ch. 12 and
  15: short TR and TE weight by T1, long ones by T2, long TR with short TE by proton density.
- Gauriau et al. 2020, J Digit Imaging 33:747: which attributes tell series apart, and how often each is missing.
- PS3.3, C.8.3.1 (MR Image) and C.8.13 (enhanced MR): Scanning Sequence, Sequence Variant, Acquisition Contrast.
- Image Type beyond its second value: the vendors' DICOM conformance statements (GE: "REFORMATTED", "PROJECTION IMAGE";
  Siemens: "MPR", "ADC", "TRACEW", "FA", "SUB", "P"; Philips: "T1 MAP", "PHASE MAP", "PROJECTION IMAGE").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Weighting = Literal["T1", "T2", "FLAIR"]
Word = Literal[
    "t1", "t2", "flair", "pd", "stir", "t2star", "diffusion", "perfusion", "angiography", "functional", "localizer",
    "subtraction", "map", "projection", "synthetic", "nulled", "before", "after", "repeat",
]  # fmt: skip
"""What a description may say. Nothing else of it is kept."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included; `missing` says whether a value that is not given fits too."""

    low: float = 0.0
    high: float = float("inf")
    missing: bool = False

    def holds_value(self, value: float | None) -> bool:
        """Whether the value fits."""
        return self.missing if value is None else self.low <= value <= self.high


ANY = Range(missing=True)


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of sequence and its weighting; every bound must hold.

    Attributes:
        echo: spin echo (turbo spin echo too) or gradient echo.
        inversion: whether an inversion pulse prepares it; None: either way.
        words: where not empty, the description must hold one of them: the header alone does not decide.
    """

    name: str
    weighting: Weighting
    echo: Literal["spin", "gradient"]
    inversion: bool | None
    tr: Range
    te: Range
    ti: Range = ANY
    flip: Range = ANY
    field: Range = ANY
    words: frozenset[Word] = frozenset()


RULES: tuple[Rule, ...] = (
    Rule("fluid-attenuated turbo spin echo", "FLAIR", "spin", True, Range(4000), Range(60), ti=Range(1500, 3200)),
    # Without an inversion time this may as well be STIR (TI 120-300): the description must say.
    Rule(
        "fluid-attenuated, inversion time not given", "FLAIR", "spin", True, Range(4000), Range(60),
        ti=Range(1, 0, missing=True), words=frozenset({"flair"}),
    ),
    Rule("T2 turbo spin echo", "T2", "spin", False, Range(2000), Range(60, 600)),
    # T1 grows with the field, and so does the TR that weights by it.
    Rule("T1 spin echo", "T1", "spin", False, Range(200, 1000), Range(0, 35)),
    Rule("T1 spin echo, high field", "T1", "spin", False, Range(1000, 1200), Range(0, 35), field=Range(2)),
    # GE's "T1 FLAIR", Siemens' T1 TIRM: above STIR's inversion times, below those that null fluid.
    Rule("T1 inversion recovery spin echo", "T1", "spin", True, Range(1200, 3800), Range(0, 60), Range(400, 1300)),
    # MP-RAGE, BRAVO, TFE: TR is the inversion's period (Siemens) or one echo's (GE, Philips).
    Rule("T1 prepared gradient echo", "T1", "gradient", True, Range(3, 3500), Range(0, 10), Range(250, 1500, True)),
    # Small angles weight by proton density; 2-D ones with long TR need large angles.
    Rule("T1 spoiled gradient echo, 3-D", "T1", "gradient", False, Range(3, 60), Range(0, 10), flip=Range(7, 50)),
    Rule("T1 spoiled gradient echo, 2-D", "T1", "gradient", False, Range(60, 600), Range(0, 10), flip=Range(40, 100)),
)  # fmt: skip

NO_SPIN_ECHO_FLIP, NO_SPIN_ECHO_TE = Range(1, 30), Range(0.1, 7)
"""Angles and echo times of gradient echoes alone: spin echoes excite by 90 degrees or nearly so, and their first echo
comes later. For sequences whose header names neither, such as GE's MP-RAGE (dcm_qa_ge: 8 degrees, 3.2 ms)."""
CONTRASTS: dict[str, Weighting] = {"T1": "T1", "T2": "T2", "FLUID_ATTENUATED": "FLAIR"}
"""Acquisition Contrast (0008,9209) of enhanced MR that is one of ours."""
OTHER_CONTRASTS = frozenset(
    {"DIFFUSION", "FLOW_ENCODED", "PERFUSION", "PROTON_DENSITY", "SPIN_TAGGING", "STIR", "TAGGING", "TEMPERATURE",
     "T2_STAR", "TOF", "ASL", "VELOCITY"}
)  # fmt: skip
"""Acquisition Contrast that is none of ours. UNKNOWN and MIXED say nothing."""

CONFIRMS: dict[Weighting, frozenset[Word]] = {
    "T1": frozenset({"t1"}), "T2": frozenset({"t2"}), "FLAIR": frozenset({"flair"}),
}  # fmt: skip
WEIGHTINGS: frozenset[Word] = frozenset({"t1", "t2", "flair", "pd", "stir"})
"""Words that name a weighting: where some stand and the right one is not among them, header and text contradict."""
LEAVES_OUT: frozenset[Word] = frozenset(
    {"t2star", "diffusion", "perfusion", "angiography", "functional", "stir", "nulled"}
)
"""Words of other techniques: a series is left out on its description alone, but never taken on it alone."""
DERIVED_WORDS: frozenset[Word] = frozenset({"subtraction", "map", "projection", "synthetic"})

DERIVED_TYPES = frozenset(
    {"ADC", "EADC", "TRACEW", "TRACE", "FA", "EXP", "EXPONENTIAL", "AVG", "CBV", "RCBV", "CBF", "RCBF", "MTT", "TTP",
     "TMAX", "PBP", "GBP", "KTRANS", "SUB", "SUBTRACTION", "SUBTRACT", "MIP", "MINIP", "MNIP", "MPR", "MPRPROJ",
     "REFORMATTED", "PROJECTION IMAGE", "PROJECTION", "CPR", "VRT", "CURVED", "T1 MAP", "T2 MAP", "T2STAR MAP",
     "R2 MAP", "R2STAR MAP", "T1_MAP", "T2_MAP", "MAP", "PHASE", "PHASE MAP", "PHASE_MAP", "P", "R", "I", "REAL",
     "IMAGINARY", "B0", "B0 MAP", "B1", "FIELD MAP", "FIELDMAP", "MOSAIC SUB", "T_TEST", "FMRI", "UNI", "DIFFERENCE",
     "FAT", "FAT_FRACTION", "OPP_PHASE", "OUT_PHASE",
     "STDDEV", "RATIO", "DIVISION", "ADDITION", "COMPOSED", "SCREEN SAVE", "SYNTHETIC"}
)  # fmt: skip
"""Values of Image Type (beyond the first two) that say: a map, a projection, a reformat, a phase, not the image."""
OTHER_TYPES = frozenset({"DIFFUSION", "PERFUSION", "ASL", "TOF", "EPI", "ANGIO", "BOLD", "SWI", "MNIP"})
"""Values of Image Type that name another technique."""
PLAIN_TYPES = frozenset({"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "LOCALIZER", "MOSAIC", "M", "NORM", "OTHER"})
KNOWN_TYPES = DERIVED_TYPES | OTHER_TYPES | PLAIN_TYPES
"""The values of Image Type that are kept; vendors and archives write free text into it too."""

NO_AGENT = re.compile(
    r"^(?:n|no|none|non|nil|null|not?[ /]?a(?:pplicable)?|n/a|na|without|w/?o|0|0[.,]?0* ?(?:ml|cc)?|false|-+"
    r"|(?:no|without|w/?o) (?:contrast|gd|gad|gadolinium|agent|iv).*|unenhanced|pre(?:[- ]?contrast)?"
    r"|ohne(?: km)?|kein[e]?(?: km)?|nativ|sans(?: .*)?|aucun|senza.*|sin(?: .*)?|nej|nee|geen)$"
)
"""What people write into Contrast/Bolus Agent (0018,0010) where none was given."""
UNKNOWN_AGENT = re.compile(r"^(?:|\?+|unknown|unk|unspecified|undefined|other|xx*)$")

_AGENT = r"(?:contrast|contr|gd|gad\w*|km|c)"
_BEFORE = (
    rf"\b(?:pre(?! ?(?:op|surg|treat|rt\b))(?: ?{_AGENT}\b)?|w ?o(?: ?{_AGENT}\b)?|without(?: \w+)?"
    rf"|non? ?(?:{_AGENT}|enh\w*)|unenh\w*|nativ\w*|ohne(?: km)?|kein km|sans(?: \w+)?)\b"
)
_AFTER = (
    r"\bpost(?! ?(?:fossa|op|proc|rt\b|surg|treat))(?:contrast|gd|gad\w*|km)?\b|\bgd\b|\bgad\w*|\+ ?(?:c|gd|gad|km)\b"
    r"|\bc\+|\b(?:ce|km|kontrast\w*)\b|\bt1 ?(?:c|ce|gd|km)\b|\bcontrast\b|\benhanced\b"
)
_PATTERNS: tuple[tuple[Word, str], ...] = (
    ("before", _BEFORE),
    ("after", _AFTER),
    ("flair", r"flair|dark ?fluid"),
    ("t1", r"(?:\b|3d)t1|mprage|mp rage|\bbravo\b|\bspgr\b|\bvibe\b|\bdt1"),
    ("t2", r"(?:\b|3d)t2(?! ?(?:\*|star))"),
    ("t2star", r"\bt2 ?(?:\*|star)|\bswi\b|\bswan\b|\bhemo\b|\bvenobold\b|\bqsm\b"),
    ("pd", r"\bpd\b|\bpdw\b|proton ?dens"),
    ("stir", r"\bstir\b"),
    ("diffusion", r"\bdwi\b|\bdti\b|\bdiff(?:usion)?\b|\btensor\b|\bb ?(?:[58]00|[123]000|1500)\b|\be?adc\b"),
    ("perfusion", r"\bperf\w*|\bdsc\b|\bdce\b|\basl\b|\bpwi\b|\bdyn\w*|\btwist\b|\bpermeab\w*"),
    ("angiography", r"\btof\b|\bmra\b|\bmrv\b|\bangio\w*|\bveno(?:graphy|gram)\b"),
    ("functional", r"\bfmri\b|\bbold\b|\bresting\b|\brs ?fmri\b"),
    ("localizer", r"\bloc\b|\blocal[iy][sz]er\w*|\bscout\w*|\bsurvey\w*|\b3 ?pl(?:ane)?\b|\baahead|\bsmartbrain"),
    ("subtraction", r"\bsubs?\b|\bsubtr\w*|\bd ?t1\b|\bdelta ?t1\b"),
    ("map", r"\be?adc\b|\bfa\b(?! ?\d)|\btracew?\b|\br?cb[vf]\b|\b(?:mtt|ttp|tmax|ktrans)\b|\bmaps?\b|\bcolou?r\b"),
    ("projection", r"\bmin? ?ip\b|\bmip\b|\breforma?t\w*|\bproj\w*"),
    ("synthetic", r"\bsynth\w*|\bsymri\b|\bsymaps\b"),
    ("nulled", r"\bfgatir\b|\bwmn\b|\bmp2rage\b|\bpsir\b|\bdir\b|\bflaws\b"),
    ("repeat", r"\brepeat\w*|\brpt\b|\bredo\b|\bwdh\b"),
)  # fmt: skip
WORDS = tuple((word, re.compile(pattern)) for word, pattern in _PATTERNS)
"""How each word is known in a description that was lowered and whose signs but "+" and "*" became spaces."""
