"""What Polder writes as TOML, Python's own parser reads back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.settings.toml import dump

KEYS = st.text("abcdefghij_", min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FLAT = TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.lists(TEXT, max_size=3)


@given(st.dictionaries(KEYS, FLAT | st.lists(st.dictionaries(KEYS, TEXT, min_size=1, max_size=3), min_size=1, max_size=3)))
def test_round_trip(values: dict[str, object]) -> None:
    assert tomllib.loads(dump(values, "heading\nof two lines")) == values


def test_none_is_left_out_and_other_things_are_errors() -> None:
    assert tomllib.loads(dump({"a": None, "b": 1}, "h")) == {"b": 1}
    with pytest.raises(TypeError, match="cannot write object"):
        dump({"a": object()}, "h")
