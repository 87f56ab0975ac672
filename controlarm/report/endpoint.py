"""The endpoint as one picture that stands alone: for a paper's supplement, a README, a slide."""

import re
from importlib import resources

from controlarm.markup import Markup, element
from controlarm.report.effects import forest_panels
from controlarm.report.view import Entry, view

PANEL = 340
GAP = 36
EDGE = 16


def endpoint(summary: Entry) -> str | None:
    """An SVG file: one forest plot per family, light or dark as the reader's screen; None when there is nothing to draw."""
    panels, _ = forest_panels(view(summary))
    if not panels:
        return None
    style = resources.files("controlarm.report").joinpath("page.css").read_text(encoding="utf-8")
    heights = [
        float(found[1]) for p in panels if (found := re.search(r'viewBox="0 0 \S+ (\S+?)"', p))
    ]
    width = len(panels) * (PANEL + GAP) - GAP + 2 * EDGE
    height = max(heights) + 2 * EDGE
    placed = [
        Markup(panel.replace("<svg ", f'<svg x="{EDGE + i * (PANEL + GAP)}" y="{EDGE}" width="{PANEL}" height="{h:g}" ', 1))
        for i, (panel, h) in enumerate(zip(panels, heights, strict=True))
    ]  # fmt: skip
    return element(
        "svg",
        element("style", Markup(style)),
        element("rect", width=width, height=height, style="fill: var(--paper)"),
        *placed,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height:g}",
        width=width,
        height=f"{height:g}",
    )
