"""Credentials that were signed once and are kept: what verified must go on verifying, byte for byte.

Those with old algorithms were taken by the reference C implementation when they were made.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polder.keynote import Checker, Why, canonical, parse, principal
from polder.keynote.signatures import ALGORITHMS, OLD

VECTORS: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "vectors.json").read_text())
ACTION = {"app_domain": "vectors", "n": "1"}


@pytest.mark.parametrize("name", VECTORS)
def test_kept_credentials_verify(name: str) -> None:
    """With their algorithm named if it is old; and not after a change of one character of text or signature."""
    signer, credential = VECTORS[name]["signer"], VECTORS[name]["credential"]
    algorithm = name.rpartition("-")[0]
    policy = f'Authorizer: "POLICY"\nLicensees: "{signer}"\n'
    checker = Checker(accept=[algorithm])
    assert checker.query([policy], [credential], ["me"], ACTION).passed
    assert Checker().query([policy], [credential], ["me"], ACTION).passed is (algorithm not in OLD)
    one = parse(credential)
    assert one.authorizer == principal(signer)
    assert canonical(one.constants["SIGNER"]) == canonical(signer)
    digit = credential[-20]
    for changed in (
        credential.replace(">= 1", ">= 0"),
        credential.replace("and kept", "and Kept"),
        credential[:-20] + ("1" if digit == "0" else "0") + credential[-19:],
    ):
        answer = checker.query([policy], [changed], ["me"], ACTION)
        assert not answer.passed
        assert answer.entries[1].error is not None
        assert answer.entries[1].error.kind in (Why.SIGNATURE, Why.KEY)


def test_every_algorithm_of_a_key_has_one() -> None:
    """But for those whose key is a certificate."""
    assert {name.rpartition("-")[0] for name in VECTORS} == {name for name in ALGORITHMS if "x509" not in name}
