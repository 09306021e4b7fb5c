"""One look for every figure of the project: quiet grid, colours that the colour-blind tell apart, words instead of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INK = "#1f2933"
SEA = "#1b6ca8"
DIKE = "#2f9e6e"
FLOOD = "#d1495b"
SAND = "#edae49"
MIST = "#8d99a6"
CYCLE = (SEA, DIKE, SAND, FLOOD, "#7a5195", MIST)
"""Series colours in order (checked for red-green blindness: lightness differs, too)."""

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MIST,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e8ed",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "polder",
    "figure.dpi": 110,
}


def figure(width: float = 9.0, height: float = 5.0) -> Any:
    """An empty matplotlib ``Figure`` in the project's style; sizes in inches. Raises ``ImportError`` with the remedy."""
    try:
        import matplotlib as mpl
        from cycler import cycler
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'polder[lab]'") from error
    mpl.use("Agg")
    settings: Any = mpl.rcParams
    settings.update(_STYLE, **{"axes.prop_cycle": cycler(color=list(CYCLE))})
    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Any, path: Path) -> None:
    """Write a figure as its suffix says; SVG files come out the same for the same data (no date, fixed ids)."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    drawn.savefig(path, metadata=metadata)
