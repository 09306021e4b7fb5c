"""The keeper on an accelerated clock: renews in time, retries, survives expiry, writes before it tells."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from polder.api import client
from polder.api.keeper import Keeper
from polder.model import Refused, Signed, Verdict
from polder.settings.identity import IdentityDir
from polder.trust import make_list
from polder.trust.keys import key_to_der
from polder.trust.profiles import Profile
from tests.support.authority import Served
from tests.support.identities import DAY, NOW, Pki

PKI = Pki()
ANN = PKI.member("user", "ann")


class Laboratory:
    """A keeper whose time is ours and whose authority does what ``answers`` says."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.path = path
        self.calls: list[float] = []
        self.told: list[IdentityDir] = []
        self.fail: Callable[[], None] = lambda: None
        identity = IdentityDir(ANN.profile.id, key_to_der(ANN.key), ANN.chain, PKI.roots, "https://127.0.0.1:1", "sha256:0")
        identity.save(path)
        self.keeper = Keeper(
            path, identity, self._on, clock=lambda: self.now, rng=random.Random(1), via=self._renew, longest_sleep=0.001
        )

    async def _renew(self, identity: IdentityDir) -> tuple[IdentityDir, Signed]:
        self.calls.append(self.now)
        self.fail()
        profile = Profile(ANN.profile.id)
        chain = PKI.issuer.issue(profile, ANN.key.public_key(), self.now, DAY, random.Random(len(self.calls)))
        return dataclasses.replace(identity, chain=chain), PKI.issuer.sign_revocations(make_list(1, self.now, [], []))

    def _on(self, identity: IdentityDir, revocations: Signed) -> None:
        assert IdentityDir.load(self.path) == identity  # it is on the disk already
        assert PKI.verifier().open_revocations(revocations, self.now).epoch == 1
        self.told.append(identity)

    async def run(self, until: Callable[[], bool], step: float) -> None:
        """Let time pass in steps until something has happened."""
        task = asyncio.create_task(self.keeper.forever())
        while not until() and not task.done():
            if self.keeper.renewals + self.keeper.failures == len(self.calls):  # it sleeps: a slow disk must not cost its life
                self.now += step
            await asyncio.sleep(0.002)
        task.cancel()
        result = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result[0], asyncio.CancelledError), result


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


async def test_three_renewals_each_within_the_life(laboratory: Laboratory) -> None:
    await laboratory.run(lambda: len(laboratory.told) == 3, DAY / 40)
    times = [NOW, *laboratory.calls]
    for before, after in itertools.pairwise(times):
        assert 0.55 * DAY < after - before < 0.75 * DAY
    assert laboratory.keeper.renewals == 3
    assert laboratory.keeper.not_after == int(laboratory.calls[-1] + DAY)


@pytest.mark.parametrize("error", [OSError("away"), Refused(Verdict.BUSY, "later", retry=True), Refused(Verdict.REVOKED, "gone")])
async def test_failures_are_retried_with_growing_pauses_also_after_expiry(laboratory: Laboratory, error: Exception) -> None:
    def fail() -> None:
        if laboratory.now < NOW + 1.2 * DAY:
            raise error

    laboratory.fail = fail
    await laboratory.run(lambda: bool(laboratory.told), 400.0)
    assert laboratory.calls[-1] >= NOW + 1.2 * DAY  # after the certificate had ended
    assert laboratory.keeper.failures == len(laboratory.calls) - 1
    assert laboratory.keeper.last_error is None
    gaps = [b - a for a, b in itertools.pairwise(laboratory.calls)]
    assert max(gaps) <= 300 + 2 * 400


async def test_a_failed_write_is_a_failure_and_nobody_is_told(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(IdentityDir, "save_renewed", full)
        await laboratory.run(lambda: laboratory.keeper.failures == 1, DAY / 40)
    assert laboratory.told == []
    assert laboratory.keeper.last_error == "no space"
    assert laboratory.keeper.identity.chain == ANN.chain


async def test_waking_renews_at_once(laboratory: Laboratory) -> None:
    laboratory.keeper.wake()
    await laboratory.run(lambda: bool(laboratory.told), 0.0)
    assert laboratory.calls == [NOW]


async def test_with_a_real_authority_through_expiry(served: Served, tmp_path: Path) -> None:
    """Real renewals over TLS while both clocks run ahead by days."""
    identity = await served.enrol("node", "n1", "127.0.0.1:1")
    identity.save(tmp_path / "node")
    told: list[IdentityDir] = []
    keeper = Keeper(
        tmp_path / "node", identity, lambda new, _: told.append(new), clock=served.clock, via=client.renew, longest_sleep=0.001
    )
    task = asyncio.create_task(keeper.forever())
    for count in (1, 2, 3):
        served.clock.ahead += 2 * DAY  # each certificate has ended when it is renewed
        while len(told) < count:
            await asyncio.sleep(0.002)
    task.cancel()
    assert keeper.failures == 0
    assert IdentityDir.load(tmp_path / "node").chain == told[-1].chain
