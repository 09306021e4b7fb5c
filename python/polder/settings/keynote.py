"""The table ``[keynote]``: what strangers' credentials may cost whoever judges them."""

from __future__ import annotations

from pydantic import Field

from polder.keynote import Limits
from polder.settings.base import Settings


class KeyNoteSettings(Settings):
    """Bounds that hold before any signature is checked; what exceeds one is refused with its name."""

    assertion: int = Field(
        16_384, ge=1_024, le=1 << 20, description="Bytes of one credential. The paper's largest request held seven in 7,620."
    )
    assertions: int = Field(64, ge=2, le=1_024, description="Credentials and policies in one question; 20 µs each to read.")
    query: int = Field(131_072, ge=4_096, le=1 << 22, description="Bytes of all of them together.")
    tokens: int = Field(2_048, ge=64, le=65_536, description="Words and signs in one field; half a microsecond each.")
    depth: int = Field(
        32, ge=4, le=48, description="Nesting of parentheses, blocks and prefix operators. The stack bears no more than 48."
    )
    operators: int = Field(
        256, ge=8, le=384, description="Arithmetic operators and joined strings in one field, for the stack's sake."
    )
    principals: int = Field(128, ge=2, le=1_024, description="Licensees in one credential.")
    names: int = Field(
        512,
        ge=2,
        le=8_192,
        description="Licensees in all credentials of a question. The search costs their number times that of one.",
    )
    attributes: int = Field(128, ge=32, le=1_024, description="Attributes of an action, and constants of a credential.")
    value: int = Field(8_192, ge=2_048, le=1 << 16, description="Characters of a value; RFC 2704 §3 promises 2,048.")
    regex: int = Field(512, ge=16, le=4_096, description="Characters of a regular expression.")
    regex_steps: int = Field(
        1_000,
        ge=64,
        le=1_000_000,
        description="Steps of all regular expressions in one credential: below 3 ms (`python -m bench frauds`). A match takes tens.",
    )
    values: int = Field(64, ge=2, le=1_024, description="Compliance values of a question.")
    signatures: int = Field(
        32, ge=1, le=1_024, description="Signatures checked for one question: 0.1 ms each with ed25519. Known ones are free."
    )
    cached: int = Field(
        4_096, ge=16, le=1 << 20, description="Verified credentials that are kept read; up to 50 kB each, some 5 kB as a rule."
    )
    rsa_bits: int = Field(2_048, ge=1_024, le=4_096, description="Least size of an RSA key under a modern algorithm.")

    def limits(self) -> Limits:
        """As the checker wants them."""
        return Limits(**self.model_dump())
