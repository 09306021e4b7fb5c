"""Quantities: what people write is what is meant, or a clear refusal."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.settings.quantities import (
    format_duration,
    parse_address,
    parse_duration,
    parse_host,
    parse_list,
    parse_millis,
    parse_rate,
    parse_size,
)

IPS = st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172_800), ("1w", 604_800), (5, 5.0), ("1.5s", 1.5)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "30m ", "x30m", "-1m", "30minutes", True, None, "1m1"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(1, 10_000_000))
def test_a_formatted_duration_is_within_its_last_unit(seconds: int) -> None:
    back = parse_duration(format_duration(seconds))
    assert back <= seconds < back * 1.05 + 60


@pytest.mark.parametrize(("value", "millis"), [("2s", 2000), ("250ms", 250), (7, 7), ("7", "7")])
def test_milliseconds(value: object, millis: object) -> None:
    assert parse_millis(value) == millis


@pytest.mark.parametrize(("value", "size"), [("64KiB", 65_536), ("1 MiB", 1 << 20), (3, 3), ("3", "3"), ("9B", 9)])
def test_sizes(value: object, size: object) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["64kb", "KiB", "1.5MiB", "-1B"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(value)


@pytest.mark.parametrize(("value", "rate"), [("30/m", 0.5), (2, 2.0), ("1.5/s", 1.5), ("24/d", 24 / 86_400)])
def test_rates(value: object, rate: float) -> None:
    assert parse_rate(value) == rate


@pytest.mark.parametrize("value", ["30", "30/y", "/m", True, "-1/s"])
def test_what_is_no_rate(value: object) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        parse_rate(value)


@given(IPS, st.integers(0, 65_535))
def test_addresses_come_back_canonical(ip: str, port: int) -> None:
    text = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    canonical = parse_address(text)
    assert parse_address(canonical) == canonical
    host, _, number = canonical.rpartition(":")
    assert ipaddress.ip_address(host.strip("[]")) == ipaddress.ip_address(ip)
    assert int(number) == port


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        canonical = parse_address(text)
    except ValueError as error:
        assert "not an address" in str(error)
    else:
        assert parse_address(canonical) == canonical


@pytest.mark.parametrize(
    "text", ["example.org:80", "::1:80", "[127.0.0.1]:80", "1.2.3.4", "1.2.3.4:99999", "1.2.3.4:٣", ":80", ""]
)
def test_names_and_slips_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse_address(text)


def test_localhost_means_loopback() -> None:
    assert parse_address("localhost:80") == "127.0.0.1:80"


@pytest.mark.parametrize(
    ("text", "host"), [("Wiki.Example.", "wiki.example"), ("a-1.b", "a-1.b"), ("xn--bcher-kva.example",) * 2]
)
def test_hosts(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize("text", ["", "127.0.0.1", "a..b", "-a.b", "a_b.c", "*.a.b", "a b", "é.fr", "a" * 64 + ".b", "a/b"])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        parse_host(text)


def test_lists_may_be_one_text() -> None:
    assert parse_list("a, b,,c") == ("a", "b", "c")
    assert parse_list(["a"]) == ["a"]
