"""What the site's filter must admit, as a plan, and its renderings."""

from polder.perimeter.packet import Place, Ruling, rule
from polder.perimeter.plan import Flow, Pair, Plan, draw_key, from_json, redact, to_json

__all__ = [
    "Flow",
    "Pair",
    "Place",
    "Plan",
    "Ruling",
    "draw_key",
    "from_json",
    "redact",
    "rule",
    "to_json",
]
