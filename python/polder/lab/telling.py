"""Can somebody who only looks on tell which nodes play a role? A permutation test over nodes, not over requests.

A table has one number for each site and node, such as the median time until a tunnel opened. Nodes differ (machine, place) and so do
sites; what both have in all their cells is taken away first, so that the rest can only come from what this node is for this
site. Then the role's labels are dealt out anew within each site, many times: the share of deals that separate the cells as well
as the true labels do is the p-value. Requests of one cell are not independent of each other; nodes are what labels belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEALS = 20_000


@dataclass(frozen=True)
class Told:
    """``difference``: mean of the labelled cells less that of the others, in the table's unit. ``p``: of the two-sided test."""

    difference: float
    p: float


def tell(table: Sequence[Sequence[float]], labels: Sequence[Sequence[bool]], seed: int, deals: int = DEALS) -> Told:
    """Test whether ``labels`` explain ``table``; rows are sites, columns nodes.

    Sites whose nodes all have the label, or none, say nothing and only help to know the nodes. Raises ``ValueError`` when no site
    says anything. Needs the extra ``polder[lab]`` (numpy).
    """
    import numpy as np

    values, marks = np.array(table, float), np.array(labels, bool)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
    mixed = marks.any(axis=1) & ~marks.all(axis=1)
    if not mixed.any():
        raise ValueError("no site has nodes both with and without the label")
    rest, marks = rest[mixed], marks[mixed]
    rng = np.random.default_rng(seed)

    def separation(dealt: Any) -> Any:
        inside = (rest * dealt).sum(axis=-1) / dealt.sum(axis=-1)
        outside = (rest * ~dealt).sum(axis=-1) / (~dealt).sum(axis=-1)
        return (inside - outside).mean(axis=-1)

    truth = float(separation(marks))
    dealt = rng.permuted(np.broadcast_to(marks, (deals, *marks.shape)).copy(), axis=-1)
    as_good = int((np.abs(separation(dealt)) >= abs(truth) - 1e-12).sum())
    return Told(truth, (1 + as_good) / (1 + deals))


def corrected(ps: Iterable[float]) -> list[float]:
    """Holm's correction: the p-values as they count when all tests of a family were looked at."""
    known = list(ps)
    order = sorted(range(len(known)), key=lambda index: known[index])
    out, worst = [0.0] * len(known), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(known) - rank) * known[index]))
        out[index] = worst
    return out


def distinct(answers: Mapping[str, Iterable[str]]) -> int:
    """How many kinds of nodes there are by the sets of their answers: 1 when nobody is told apart."""
    return len({frozenset(seen) for seen in answers.values()})
