"""Matplotlib figures as SVG that lives inside a page and follows its theme, and as SVG and PNG files of their own.

Colours are drawn as those of the light theme, each of which no other part of a figure has; inside a page they become
the page's CSS variables.
"""

from __future__ import annotations

import io
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nait_fast.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 340.0  # points: about a phone's, so that text keeps its size there
PNG_DPI = 216
# What a colour is for -> its value in the light theme; page.css has these and the dark theme's as variables.
COLOURS = {
    "ink": "#1b2430",
    "soft": "#55606e",
    "line": "#d8dee6",
    "pool": "#8791a0",
    "pick": "#1f5fbf",
    "minus": "#b3480e",
}
INK, SOFT, LINE, POOL, PICK, MINUS = COLOURS.values()
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nait_fast",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 10.0,
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure. ``name``: of its files, without a suffix; ``title`` and ``text``: what it shows, for those who do not
    see it; ``box`` and ``body``: the SVG's viewBox and what is inside it, for a page; ``svg``, ``png``: files, ``png``
    only where it was asked for."""

    name: str
    title: str
    text: str
    box: str
    body: str
    svg: bytes
    png: bytes


def need_matplotlib() -> None:
    """Raises NaitError where the extra is not installed."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its advice on fonts and caches is not for our users
    try:
        import jinja2  # noqa: F401
        import matplotlib.style  # noqa: F401
    except ImportError as error:
        package = (error.name or "matplotlib").partition(".")[0]
        raise missing_extra(
            package,
            "report",
            f"{package} is not installed",
            "report",
            remedy="pip install 'nait-fast[report]'",
            join="; ",
        ) from None


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's settings are, and none of its warnings."""
    import matplotlib.style

    with warnings.catch_warnings(), matplotlib.style.context(["default", _STYLE]):
        warnings.simplefilter("ignore")  # of glyphs that its font lacks: the reader's browser has them
        yield


def blank(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of ``height`` points with so many axes below each other. To be drawn within ``styled``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    return figure, list(figure.subplots(panels, 1, squeeze=False, sharex=panels > 1)[:, 0])


def finish(figure: Figure, name: str, title: str, text: str, files: bool) -> Drawing:
    """Save ``figure``; within ``styled``. The same figure gives the same bytes. Files have its title in the picture; a
    page writes it above."""
    out, png = io.StringIO(), io.BytesIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    box, body = _inlined(svg, name)
    if not files:
        return Drawing(name, title, text, box, body, b"", b"")
    lines = textwrap.wrap(title, int(figure.get_figwidth() * 72 / 6))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    figure.set_figheight(figure.get_figheight() + (8 + 14 * len(lines)) / 72)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    figure.set_layout_engine("none")  # everything has its place
    figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    white = svg.replace("</defs>", '</defs>\n <rect width="100%" height="100%" fill="white"/>', 1)
    return Drawing(name, title, text, box, body, white.encode(), png.getvalue())


_VIEWBOX = re.compile(r'viewBox="([^"]*)"')
_TAG = re.compile(r"<[^<>]*>")
_NUMBER = re.compile(r"(\d\.\d\d)\d+")
_ID = re.compile(r' id="([^"]*)"')


def _inlined(svg: str, name: str) -> tuple[str, str]:
    """(viewBox, content) of a page's SVG element: only ids that are referred to, with ``name`` in front."""
    head, _, rest = svg.partition("</style>")
    viewbox = _VIEWBOX.search(head)
    assert viewbox is not None
    body = rest.partition("</defs>")[2].rpartition("</svg>")[0]
    used = set(re.findall(r"url\(#([^)]*)\)", body)) | set(re.findall(r'href="#([^"]*)"', body))

    def tag(match: re.Match[str]) -> str:
        text = " ".join(match[0].split())
        text = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
        text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        for role, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{role})")
        return _NUMBER.sub(r"\1", text)

    body = _TAG.sub(tag, body)
    return viewbox[1], re.sub(r">\s+<", "><", body).strip()
