"""A token bucket per source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.api.limits import BURST, SourceRates, source_of


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_sources(address: str, source: str) -> None:
    assert source_of(address) == source


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200), st.floats(0.1, 20))
def test_no_more_pass_than_burst_and_rate_allow(gaps: list[float], rate: float) -> None:
    rates = SourceRates(rate, 16)
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        wait = rates.admit("a", now)
        assert wait >= 0
        passed += wait == 0
        assert passed <= max(BURST, rate * BURST) + rate * now + 1e-6
    assert rates.admit("b", now) == 0  # others do not suffer


@given(st.floats(0.1, 20))
def test_the_wait_that_is_told_is_enough(rate: float) -> None:
    rates = SourceRates(rate, 16)
    while (wait := rates.admit("a", 0.0)) == 0:
        pass
    assert rates.admit("a", wait * 1.001 + 1e-6) == 0


def test_the_longest_silent_is_forgotten() -> None:
    rates = SourceRates(0.001, 3)
    for _ in range(BURST):
        rates.admit("a", 0.0)
    assert rates.admit("a", 0.0) > 0
    for name in "bcd":
        rates.admit(name, 1.0)
    assert len(rates._buckets) == 3
    assert rates.admit("a", 1.0) == 0
