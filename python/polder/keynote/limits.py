"""What a stranger's assertions may cost. All are checked before any signature is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one checker; sizes in bytes unless said otherwise."""

    assertion: int = 16_384
    """One assertion. The paper's largest request held seven in 7,620 bytes."""
    assertions: int = 64
    """Assertions in one query, policies included."""
    query: int = 131_072
    """All assertions of a query together."""
    tokens: int = 2_048
    """Tokens in one field."""
    depth: int = 32
    """Nesting of parentheses, blocks and prefix operators."""
    operators: int = 256
    """Arithmetic operators and concatenations in one field: each may add a level to a tree."""
    principals: int = 128
    """Principals in one Licensees field."""
    names: int = 512
    """Principals in all Licensees fields of a query; the search for a chain costs their number times that of one field."""
    attributes: int = 128
    """Attributes of an action, and constants of an assertion."""
    value: int = 8_192
    """One attribute's value, and every string that an expression makes (RFC 2704 §3 guarantees 2,048)."""
    regex: int = 512
    """One regular expression."""
    regex_steps: int = 1_000
    """Steps of the matcher in one assertion: one operation on a set of places, or the reading of four characters, or of two of
    an expression that is not a literal."""
    values: int = 64
    """Compliance values of a query."""
    signatures: int = 32
    """Signature checks in one query; those already known cost none."""
    cached: int = 4_096
    """Verified assertions kept parsed; the one used longest ago goes first. Up to some 50 kB each when every limit is used."""
    rsa_bits: int = 2_048
    """Least modulus of an RSA key under a modern algorithm."""
