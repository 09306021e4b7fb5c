"""The knobs of [keynote] are the checker's limits, with the same defaults, and the widest of them still fit the stack."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from pydantic import ValidationError

from polder.keynote import Checker, Limits
from polder.settings.keynote import KeyNoteSettings


def test_every_limit_has_a_knob() -> None:
    assert KeyNoteSettings().limits() == Limits()
    assert set(KeyNoteSettings.model_fields) == set(asdict(Limits()))
    with pytest.raises(ValidationError):
        KeyNoteSettings(depth=1000)


def test_the_deepest_expression_is_judged() -> None:
    """Parentheses as deep and operators as many as the knobs allow, the operators where they nest most."""
    widest = KeyNoteSettings(depth=48, operators=384, tokens=65_536).limits()
    deep = "(" * 47 + "1" + " + 1" * 300 + ")" * 47 + " + 1" * 80 + " == 381"
    nested = "!(" * 23 + deep + ")" * 23
    for test, holds in ((deep, True), (nested, False)):
        text = f'Authorizer: "POLICY"\nLicensees: "me"\nConditions: {test};\n'
        answer = Checker(widest).query([text], [], ["me"], {}, whole=True)
        assert (answer.entries[0].error is None) is holds
        assert answer.passed is holds
