"""Contrast and distance of the colours of the page, light, dark and on paper."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite import report
from evalsuite.report.palette import SHAPES

Colour = Any
STYLE = (Path(report.__file__).parent / "page.css").read_text("utf-8")
THEMES = {
    name: dict(re.findall(r"--(\w+): ([^;]+);", block))
    for name, block in zip(
        ("light", "dark", "paper"), re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL), strict=True
    )
}
METHODS = [f"m{i}" for i in range(len(SHAPES))]
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}  # fmt: skip
"""Full loss of one kind of cone, for linear RGB (Machado et al. 2009)."""
STRONGEST = 0.6
"""How opaque the largest change in a map is."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def rgb(text: str) -> Colour:
    """A colour of the style sheet, each channel in [0, 1]."""
    if not text.startswith("#"):
        return np.array([int(part) for part in text.split(",")]) / 255
    digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def linear(colour: Colour) -> Colour:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one: Colour, other: Colour) -> float:
    """The ratio of WCAG 2: 1 for equal colours, 21 for black on white."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: Colour) -> Colour:
    x, y, z = TO_XYZ @ np.clip(light, 0, 1) / np.array([0.9505, 1, 1.089])
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_black_on_white_is_21_and_red_looks_dark_without_red_cones() -> None:
    assert contrast(rgb("#000"), rgb("#ffffff")) == pytest.approx(21)
    red = linear(rgb("#f00"))
    assert lab(np.array(DEFICIENCIES["protanopia"]) @ red)[0] < lab(red)[0] - 5


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_enough_contrast(theme: str) -> None:
    """On paper and on the strongest colour of a loss and of a gain in a map."""
    found = THEMES[theme]
    paper, ink = (rgb(found[name]) for name in ("paper", "ink"))
    for name in ("ink", "muted", "link"):
        assert contrast(rgb(found[name]), paper) >= 4.5, name
    assert contrast(rgb(found["muted"]), rgb(found["soft"])) >= 4.5
    for name in ("short", "gain"):
        assert contrast(ink, STRONGEST * rgb(found[name]) + (1 - STRONGEST) * paper) >= 4.5, name
    for name in METHODS:  # shapes and lines
        assert contrast(rgb(found[name]), paper) >= 3, name


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("theme", THEMES)
def test_methods_can_be_told_apart_by_colour_alone(theme: str, deficiency: str) -> None:
    """Marks have shapes of their own as well; areas and thin lines have not."""
    seen = {
        name: lab(np.array(DEFICIENCIES[deficiency]) @ linear(rgb(THEMES[theme][name]))) for name in METHODS
    }
    apart = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(METHODS, 2)}
    closest = min(apart, key=lambda pair: apart[pair])
    assert apart[closest] >= 8, (closest, apart[closest])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("theme", THEMES)
def test_a_gain_is_neither_the_colour_of_a_loss_nor_that_of_nothing(theme: str, deficiency: str) -> None:
    paper = rgb(THEMES[theme]["paper"])
    shades = [STRONGEST * rgb(THEMES[theme][name]) + (1 - STRONGEST) * paper for name in ("short", "gain")]
    assert f"* {STRONGEST:g}".replace("0.", ".") in STYLE
    loss, gain, nothing = (lab(np.array(DEFICIENCIES[deficiency]) @ linear(c)) for c in (*shades, paper))
    pairs = combinations((loss, gain, nothing), 2)
    assert min(float(np.linalg.norm(one - other)) for one, other in pairs) >= 20
