"""Records: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Appointment, Member, PathMode, Refused, RevocationList, Rule, Signed, SiteRecord, Verdict, decode, encode
from polder.model.records import to_builtins

WORDS = st.text(max_size=12)
NUMBERS = st.integers(0, 2**62)
TEXTS = st.lists(WORDS, max_size=3).map(tuple)
RULES = st.lists(st.builds(Rule, st.just("user"), WORDS.filter(bool)) | st.builds(Rule, st.just("anyone")), max_size=3).map(tuple)
RECORDS = {
    Member: st.builds(Member, WORDS, st.binary(min_size=16, max_size=16), WORDS),
    SiteRecord: st.builds(
        SiteRecord,
        WORDS,
        NUMBERS,
        TEXTS,
        st.lists(NUMBERS, max_size=3).map(tuple),
        RULES,
        RULES,
        st.sampled_from(PathMode),
        NUMBERS,
    ),
    Appointment: st.builds(Appointment, WORDS, WORDS, st.binary(max_size=16), NUMBERS, NUMBERS, NUMBERS),
    RevocationList: st.builds(RevocationList, NUMBERS, NUMBERS, TEXTS, st.lists(st.binary(max_size=32), max_size=3).map(tuple)),
    Signed: st.builds(
        Signed, st.binary(max_size=40), st.binary(max_size=40), st.lists(st.binary(max_size=9), max_size=2).map(tuple)
    ),
}


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_round_trip(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    record = data.draw(RECORDS[kind])
    assert decode(encode(record), kind) == record


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_record_or_refused(kind: type[msgspec.Struct], data: bytes) -> None:
    try:
        record = decode(data, kind)
    except ValueError:
        return
    assert isinstance(record, kind)


def test_signed_kinds_are_not_taken_for_each_other() -> None:
    appointment = encode(Appointment("s", "n", bytes(16), 1, 0, 1))
    for other in (SiteRecord, RevocationList, Member, Signed):
        with pytest.raises(ValueError, match="not a"):
            decode(appointment, other)


def test_unknown_fields_and_deep_nesting_are_refused() -> None:
    more = msgspec.msgpack.encode({"name": "n", "ring_id": bytes(16), "address": "a", "role": "beacon"})
    with pytest.raises(ValueError, match="unknown field"):
        decode(more, Member)
    with pytest.raises(ValueError):
        decode(b"\x91" * 100_000, Signed)


@given(st.sampled_from(["user", "group", "anyone", "site", ""]), st.text(max_size=8))
def test_rules_read_as_they_are_written(kind: str, name: str) -> None:
    text = f"{kind}:{name}" if name else kind
    try:
        rule = Rule.parse(text)
    except ValueError:
        assert not ((kind in {"user", "group"} and name) or (kind == "anyone" and not name))
    else:
        assert str(rule) == text


def test_members_know_their_place_as_a_number() -> None:
    assert Member.of("n", 2**127 + 1, "a").id == 2**127 + 1


def test_builtins_for_logs() -> None:
    assert to_builtins(Rule("user", "ann")) == {"kind": "user", "name": "ann"}


def test_a_refusal_says_why_and_of_what_kind() -> None:
    refused = Refused(Verdict.USED, "taken")
    assert str(refused) == "taken (already-used)"
    assert not refused.retry
