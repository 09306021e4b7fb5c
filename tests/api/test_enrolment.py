"""Enrolment on a machine: the key is kept before the token is sent, so that every interruption can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polder.api import client
from polder.api.enrolment import enrol_here, installed
from polder.model import Kind, Refused, Verdict
from polder.settings import NodeSettings, StateDir, load
from polder.settings.identity import IdentityDir, pem_blocks
from tests.support.authority import Served

NODE = frozenset({Kind.NODE})


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "machine")


async def test_an_identity_is_put_in_its_place_and_nothing_else_is_left(served: Served, state: StateDir) -> None:
    identity, path = await enrol_here(state, served.url, served.pin, served.token("user", "ann"))
    assert path == state.root / "user/ann"
    assert IdentityDir.load(path) == identity
    assert installed(state) == [(identity.id, path)]
    assert [child.name for child in state.root.iterdir()] == ["user"]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("when", ["before the request", "after the answer"])
async def test_an_interruption_can_be_repeated_with_the_same_token(served: Served, state: StateDir, when: str) -> None:
    token = served.token("node", "n1")
    keys: list[bytes] = []

    async def interrupted(*arguments: Any) -> IdentityDir:
        keys.append(pem_blocks(next(state.root.glob("enrolling-*/key.pem")), "PRIVATE KEY")[0])
        if when == "after the answer":
            await client.enrol(*arguments)
        raise Interrupted

    with pytest.raises(Interrupted):
        await enrol_here(state, served.url, served.pin, token, "127.0.0.1:1", via=interrupted)
    identity, _ = await enrol_here(state, served.url, served.pin, token, "127.0.0.1:1")
    assert [identity.key] == keys


@pytest.mark.parametrize("step", ["save", "replace"])
async def test_a_crash_while_saving_can_be_repeated(
    served: Served, state: StateDir, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = served.token("user", "ann")

    def crash(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        target = "save_renewed" if step == "save" else None
        if target:
            patch.setattr(IdentityDir, target, crash)
        else:
            patch.setattr("polder.api.enrolment.replace_directory", crash)
        with pytest.raises(Interrupted):
            await enrol_here(state, served.url, served.pin, token)
    assert installed(state) == []
    identity, path = await enrol_here(state, served.url, served.pin, token)
    assert IdentityDir.load(path) == identity


async def test_a_refused_token_leaves_nothing(served: Served, state: StateDir) -> None:
    token = served.token("user", "ann")
    await enrol_here(StateDir(state.root.parent / "first"), served.url, served.pin, token)
    with pytest.raises(Refused) as caught:
        await enrol_here(state, served.url, served.pin, token)
    assert caught.value.verdict is Verdict.USED
    assert list(state.root.iterdir()) == []


async def test_no_answer_keeps_the_key_for_another_try(served: Served, state: StateDir) -> None:
    with pytest.raises(OSError):
        await enrol_here(state, "https://127.0.0.1:1", served.pin, served.token("user", "ann"))
    assert len(list(state.root.glob("enrolling-*/key.pem"))) == 1


async def test_the_wrong_command_names_the_right_one_and_loses_nothing(served: Served, state: StateDir) -> None:
    token = served.token("user", "ann")
    with pytest.raises(Refused, match="polder enroll"):
        await enrol_here(state, served.url, served.pin, token, kinds=NODE)
    identity, _ = await enrol_here(state, served.url, served.pin, token)
    assert identity.id.kind is Kind.USER


async def test_who_is_here_stays_unless_replaced(served: Served, state: StateDir) -> None:
    first, path = await enrol_here(state, served.url, served.pin, served.token("node", "n1"), "127.0.0.1:1", kinds=NODE)
    token = served.token("node", "n2")
    with pytest.raises(Refused, match="--replace"):
        await enrol_here(state, served.url, served.pin, token, "127.0.0.1:2", kinds=NODE)
    assert IdentityDir.load(path) == first
    (path / "conf.d").mkdir()
    (path / "node.toml").write_text("workers = 2\n")
    (path / "conf.d/a.toml").write_text("beacons = 5\n")
    second, _ = await enrol_here(state, served.url, served.pin, token, "127.0.0.1:2", kinds=NODE, replace=True)
    assert IdentityDir.load(path) == second
    assert IdentityDir.load(path.with_name("node~1")) == first
    assert installed(state) == [(second.id, path)]
    settings = load(NodeSettings, path / "node.toml")
    assert (settings.workers, settings.beacons) == (2, 5)  # what the operator wrote outlives the identity
