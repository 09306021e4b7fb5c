"""BandEx's money without I/O: offers, credits, checks as KeyNote credentials; the ISP's decision; the clearing house's rules.

Amounts are whole micro-units. See ``docs/design/bandex.md`` for the texts and the chain.
"""

from polder.bandex.bundle import Bundle, charge_of, normal, pack, read, unpack
from polder.bandex.desk import CODES, Decision, Desk, Isp
from polder.bandex.judge import Flow, Trust
from polder.bandex.money import MICRO, MOST, format_amount, parse_amount, parse_currency
from polder.bandex.spent import Entry, Spent, SpentSet
from polder.bandex.terms import KINDS, CheckTerms, CreditTerms, GuaranteeTerms, OfferTerms, Terms

__all__ = [
    "CODES",
    "KINDS",
    "MICRO",
    "MOST",
    "Bundle",
    "CheckTerms",
    "CreditTerms",
    "Decision",
    "Desk",
    "Entry",
    "Flow",
    "GuaranteeTerms",
    "Isp",
    "OfferTerms",
    "Spent",
    "SpentSet",
    "Terms",
    "Trust",
    "charge_of",
    "format_amount",
    "normal",
    "pack",
    "parse_amount",
    "parse_currency",
    "read",
    "unpack",
]
