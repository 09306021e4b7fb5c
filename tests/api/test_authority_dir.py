"""Founding: an authority or none; keys encrypted; the root key apart."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest
from cryptography import x509

from polder.api import authority_dir
from polder.api.authority_dir import CREDENTIAL, Founded, found, load_authority, load_settings, open_ledger
from polder.api.local import enrol_locally
from polder.model import Refused, Verdict
from polder.settings import AuthoritySettings, ConfigError, StateDir
from polder.settings.identity import IdentityDir
from polder.shell.clock import wall
from polder.trust import ChainVerifier, domain_of
from polder.trust.keys import key_from_pem, pin_of
from tests.support.identities import DOMAIN, new_key, who

SETTINGS = AuthoritySettings(trust_domain=DOMAIN, url="https://127.0.0.1:7400", node_life=7200.0)


def make(state: StateDir, **passwords: str) -> Founded:
    return found(state, SETTINGS, wall(), random.Random(1), new_key, **passwords)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state")


def test_what_is_founded_can_be_served(state: StateDir) -> None:
    made = make(state)
    authority = load_authority(state, {})
    assert (made.trust_domain, made.pin) == (DOMAIN, pin_of(authority.roots[0]))
    assert domain_of(authority.issuers.signer.certificate) == DOMAIN
    assert authority.settings == SETTINGS
    assert [secret.epoch for secret in authority.ledger.secrets()] == [1]
    assert load_settings(state, {"POLDER_AUTHORITY__NODE_LIFE": "12h"}).node_life == 43_200.0
    authority.ledger.close()


def test_the_root_key_is_apart_and_everything_secret_is_private(state: StateDir) -> None:
    make(state)
    online = {file.name for file in state.authority.iterdir()}
    assert not any("root" in name and "key" in name for name in online)
    for file in (state.authority / "issuer.key.pem", state.authority / "issuer-password", *state.offline.glob("root[.-][kp]*")):
        if file.name != "root.pem":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for directory in (state.authority, state.offline):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    password = (state.offline / "root-password").read_text().strip()
    root = x509.load_pem_x509_certificate((state.offline / "root.pem").read_bytes())
    key = key_from_pem((state.offline / "root.key.pem").read_bytes(), password)
    assert key.public_key() == root.public_key()
    with pytest.raises(Refused):
        key_from_pem((state.offline / "root.key.pem").read_bytes(), None)


def test_given_passwords_are_not_written(state: StateDir, tmp_path: Path) -> None:
    make(state, root_password="r" * 24, issuer_password="i" * 24)
    assert not list(state.root.rglob("*password*"))
    with pytest.raises(ConfigError, match="no password"):
        load_authority(state, {})
    (tmp_path / CREDENTIAL).write_text("i" * 24 + "\n")
    load_authority(state, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).ledger.close()
    load_authority(state, {}, "i" * 24).ledger.close()
    with pytest.raises(Refused, match="wrong password"):
        load_authority(state, {}, "x" * 24)


def test_an_overlay_is_founded_once(state: StateDir) -> None:
    first = make(state)
    with pytest.raises(Refused) as caught:
        make(state)
    assert caught.value.verdict is Verdict.DENIED
    assert pin_of(load_authority(state, {}).roots[0]) == first.pin


def test_nothing_here_says_how_to_begin(state: StateDir) -> None:
    with pytest.raises(ConfigError, match="polder init"):
        load_settings(state, {})


def test_the_trust_domain_cannot_be_changed(state: StateDir) -> None:
    make(state)
    with pytest.raises(ConfigError, match="cannot be changed"):
        load_authority(state, {"POLDER_AUTHORITY__TRUST_DOMAIN": "other.test"})


class Crash(Exception):
    pass


def test_a_crash_at_any_file_leaves_no_authority_and_can_be_repeated(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th write or rename fails, for every n, until founding gets through."""
    left = 0

    def counted(name: str) -> None:
        real = getattr(authority_dir, name)

        def call(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return real(*arguments)

        monkeypatch.setattr(authority_dir, name, call)

    for name in ("write_atomic", "replace_directory", "make_private", "open_database"):
        counted(name)
    crashes = 0
    while True:
        left = crashes + 1
        try:
            made = make(state)
            break
        except Crash:
            crashes += 1
            assert not state.authority.exists()
    left = 0
    assert crashes > 8
    assert pin_of(load_authority(state, {}).roots[0]) == made.pin
    root = x509.load_pem_x509_certificate((state.offline / "root.pem").read_bytes())
    key = key_from_pem((state.offline / "root.key.pem").read_bytes(), (state.offline / "root-password").read_text().strip())
    assert root.public_key() == key.public_key()  # the offline half belongs to this authority, not to an aborted one
    assert not list(state.root.glob("*.new"))


def test_the_first_node_enrols_without_a_network(state: StateDir) -> None:
    make(state)
    authority = load_authority(state, {})
    identity, path = enrol_locally(authority, state, "n1", "127.0.0.1:7443")
    assert IdentityDir.load(path) == identity
    said = ChainVerifier(identity.roots, DOMAIN).identity(identity.chain, wall())
    assert said.id == who("node", "n1")
    assert said.ring_id is not None
    assert [member.name for member in open_ledger(state, SETTINGS).members()] == ["n1"]
