"""Beacon keys and the change of their epochs (trap 1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polder.model.overlay_messages import EpochSecret
from polder.overlay import EpochSecrets, beacon_keys
from polder.overlay.secrets import enough

names = st.from_regex(r"[a-z0-9._-]{1,63}", fullmatch=True)


@given(st.binary(min_size=16, max_size=64), names, names)
def test_keys_are_many_stable_and_of_the_site(secret: bytes, one: str, two: str) -> None:
    keys = beacon_keys(secret, one, 5)
    assert len(set(keys)) == 5 and all(len(key) == 16 for key in keys)
    assert beacon_keys(secret, one, 3) == keys[:3]
    if one != two:
        assert not set(keys) & set(beacon_keys(secret, two, 5))


@given(st.binary(min_size=16, max_size=64), st.binary(min_size=16, max_size=64), names)
def test_without_the_secret_nobody_knows_whom_to_flood(one: bytes, two: bytes, name: str) -> None:
    if one.rstrip(b"\0") != two.rstrip(b"\0"):  # HMAC pads short keys with zeros
        assert not set(beacon_keys(one, name)) & set(beacon_keys(two, name))


def test_a_known_answer_pins_the_construction() -> None:
    import hashlib
    import hmac

    expected = hmac.new(b"k" * 32, b"polder-beacon/1\0wiki\0\2", hashlib.sha256).digest()[:16]
    assert beacon_keys(b"k" * 32, "wiki", 3)[2] == expected


def epochs(secrets: EpochSecrets, now: float) -> tuple[int, list[int]]:
    current = secrets.current(now)
    return (current.epoch if current else 0), [s.epoch for s in secrets.in_force(now)]


def test_a_change_is_prepared_and_has_a_grace() -> None:
    secrets = EpochSecrets([EpochSecret(7, 1000, b"7" * 32), EpochSecret(8, 2000, b"8" * 32)], lead=30, grace=60)
    assert epochs(secrets, 1500) == (7, [7])
    assert epochs(secrets, 1969) == (7, [7])
    assert epochs(secrets, 1970) == (7, [7, 8])
    assert epochs(secrets, 2000) == (8, [8, 7])
    assert epochs(secrets, 2059) == (8, [8, 7])
    assert epochs(secrets, 2060) == (8, [8])
    assert [secrets.next_change(now) for now in (1500, 1970, 2000, 2060)] == [1970, 2000, 2060, None]
    assert secrets.keys("wiki", 1999) == beacon_keys(b"7" * 32, "wiki")
    assert secrets.keys("wiki", 2000) == beacon_keys(b"8" * 32, "wiki")


def test_a_clock_behind_the_first_epoch_uses_it_all_the_same() -> None:
    assert epochs(EpochSecrets([EpochSecret(1, 1000, b"1" * 32)]), 0) == (1, [1])
    assert epochs(EpochSecrets(), 0) == (0, [])
    assert EpochSecrets().keys("wiki", 0) == ()


def test_the_first_word_about_an_epoch_stays_and_memory_is_bounded() -> None:
    secrets = EpochSecrets()
    assert secrets.learn([EpochSecret(1, 0, b"1" * 32)])
    assert not secrets.learn([EpochSecret(1, 0, b"x" * 32)])
    assert not secrets.learn([EpochSecret(2, 0, b"short")])
    assert secrets.keys("wiki", 5) == beacon_keys(b"1" * 32, "wiki")
    secrets.learn([EpochSecret(epoch, epoch * 100, bytes([epoch]) * 32) for epoch in range(2, 40)])
    assert secrets.newest == 39
    assert [s.epoch for s in secrets.newer_than(37)] == [38, 39]
    assert len(secrets.newer_than(0)) == 8
    assert "withheld" in repr(secrets.newer_than(38)[0]) and "\\x" not in repr(secrets.newer_than(38)[0])


def test_spare_keys_are_used_until_enough_nodes_are_found() -> None:
    for owners, used in [
        ("abcdefghi", 3), ("aabcdefgh", 4), ("aaabcdefg", 5), ("aaaaaaaab", 9), ("aaaaaaaaa", 9), ("aa-bcdefg", 3),
        ("---------", 3), ("aaab-cdef", 5),
    ]:  # fmt: skip
        assert enough([None if owner == "-" else owner for owner in owners], 3) == used, owners


def test_spare_keys_continue_the_first() -> None:
    secrets = EpochSecrets([EpochSecret(1, 0, b"1" * 32)])
    current = secrets.current(0)
    assert current is not None
    assert secrets.all_keys(current, "wiki")[:3] == secrets.keys("wiki", 0)
    assert len(set(secrets.all_keys(current, "wiki"))) == 9
