"""Identity directories: what is saved is loaded; damage is named; keys are private."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from polder.model import Member as RingMember
from polder.model.overlay_messages import EpochSecret
from polder.settings import ConfigError
from polder.settings.identity import IdentityDir, pem_blocks, replace_directory
from polder.trust.keys import certificates_to_pem, key_from_pem, key_to_der
from tests.support.identities import Pki

PKI = Pki()
N1 = PKI.member("node", "n1")


def identity() -> IdentityDir:
    return IdentityDir(
        id=N1.profile.id,
        key=key_to_der(N1.key),
        chain=N1.chain,
        roots=PKI.roots,
        authority_url="https://127.0.0.1:7400",
        pin="sha256:00",
        members=(RingMember.of("n2", 2**127, "[::1]:7443"),),
        hosts=("wiki.example",),
        address="127.0.0.1:7443",
        secrets=(EpochSecret(1, 5, b"s" * 32),),
        browser_root=certificates_to_pem(PKI.roots).decode(),
    )


def test_round_trip_and_modes(tmp_path: Path) -> None:
    identity().save(tmp_path / "node")
    assert IdentityDir.load(tmp_path / "node") == identity()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "node").iterdir()}
    assert modes["key.pem"] == modes["secrets.mp"] == 0o600
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700


def test_files_are_standard_pem(tmp_path: Path) -> None:
    identity().save(tmp_path)
    key = key_from_pem((tmp_path / "key.pem").read_bytes())
    assert key.private_numbers() == N1.key.private_numbers()
    assert (tmp_path / "chain.pem").read_bytes() == certificates_to_pem(N1.chain)


def test_a_renewal_keeps_the_key(tmp_path: Path) -> None:
    identity().save(tmp_path)
    before = (tmp_path / "key.pem").stat().st_ino
    dataclasses.replace(identity(), hosts=("new.example",)).save_renewed(tmp_path)
    assert (tmp_path / "key.pem").stat().st_ino == before
    assert IdentityDir.load(tmp_path).hosts == ("new.example",)


def test_secrets_do_not_show() -> None:
    text = repr(identity())
    assert "withheld" not in text
    for secret in (key_to_der(N1.key), b"s" * 32):
        assert repr(secret)[2:20] not in text


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("identity.toml", b"uri = 3", "damaged"),
        ("identity.toml", b'uri = "spiffe://o.test/node/n1"', "damaged"),
        ("identity.toml", b"\xff", "damaged"),
        ("key.pem", b"", "holds no PRIVATE KEY"),
        ("chain.pem", b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n", "chain.pem"),
        ("secrets.mp", b"\x93", "damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    identity().save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        IdentityDir.load(tmp_path)


def test_absence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="polder join"):
        IdentityDir.load(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    identity().save(tmp_path)
    (tmp_path / "key.pem").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        IdentityDir.load(tmp_path)


def test_blocks_of_other_kinds_are_skipped(tmp_path: Path) -> None:
    identity().save(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "key.pem").read_bytes() + b"text\r\n" + (tmp_path / "chain.pem").read_bytes())
    assert pem_blocks(both, "CERTIFICATE") == N1.chain


def test_replacing_keeps_what_stood_there(tmp_path: Path) -> None:
    for n in range(3):
        new = tmp_path / "new"
        new.mkdir()
        (new / "n").write_text(str(n))
        kept = replace_directory(new, tmp_path / "final")
        assert (kept is None) == (n == 0)
    assert (tmp_path / "final/n").read_text() == "2"
    assert (tmp_path / "final~2/n").read_text() == "1"
