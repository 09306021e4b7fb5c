"""Credentials that others signed long ago verify as their data says: pykeynote's test-suite (3-clause BSD), read from POLDER_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polder.keynote import Checker, parse
from polder.keynote.signing import decode_private, make_signature, read_key, wrap

PLACE = Path(os.environ.get("POLDER_DATA", "/nonexistent")) / "keynote" / "pykeynote-testsuite"
ACTION = {"app_domain": "pykeynote testsuite", "file_name": "test_file", "other_attribute": "other_value"}


@pytest.fixture(scope="module")
def data() -> dict[str, str]:
    """The files by name."""
    if not PLACE.is_dir():
        pytest.skip("POLDER_DATA does not name a directory with keynote/pykeynote-testsuite")
    return {path.name: path.read_text() for path in PLACE.iterdir()}


def test_the_suite(data: dict[str, str]) -> None:
    """Alice may do everything in her domain, Bob read and write, Charles read; unsigned, wrong or modern-only nobody but Alice."""
    credentials = [data["bob_policy"], data["charles_policy"]]
    for who, may in (("alice", "read write delete"), ("bob", "read write"), ("charles", "read")):
        asker = read_key(data[f"{who}_public"])
        for operation in ("read", "write", "delete"):
            action = ACTION | {"operation": operation}
            expected = operation in may.split()
            for links in (credentials, credentials[::-1]):
                answer = Checker(accept=["sig-rsa-sha1"]).query([data["root_policy"]], links, [asker], action)
                assert answer.passed is expected, (who, operation)
            assert Checker().query([data["root_policy"]], credentials, [asker], action).passed is (who == "alice")
            unsigned = [data["bob_policy"], data["charles_policy_unsigned"]]
            answer = Checker(accept=["sig-rsa-sha1"]).query([data["root_policy"]], unsigned, [asker], action)
            assert answer.passed is (expected and who != "charles")


def test_we_sign_as_the_reference_tool_did(data: dict[str, str]) -> None:
    """Bit for bit, line breaks included."""
    bob = decode_private(read_key(data["bob_private"]))
    signature = make_signature(data["charles_policy_unsigned"], bob, "sig-rsa-sha1-hex:")
    assert signature == parse(data["charles_policy"]).signature
    assert data["charles_policy"].endswith(wrap(signature))
    for who in ("alice", "bob", "charles"):
        assert wrap(read_key(data[f"{who}_public"])) == data[f"{who}_public"]
        assert wrap(read_key(data[f"{who}_private"])) == data[f"{who}_private"]
