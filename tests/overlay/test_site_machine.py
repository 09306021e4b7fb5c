"""A site's role under any order of events."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from polder.model.overlay_messages import Appointed, Done
from polder.overlay import SiteConfig, SiteRole, Stage
from tests.overlay.site_conversation import appointment_in, calls, deliver, signer
from tests.overlay.support import NOW, node


class Sites(RuleBasedStateMachine):
    """Rotations, burns, deaths and a lagging filter at random; the order must hold whatever happens."""

    @initialize(seed=st.integers(0, 999))
    def begin(self, seed: int) -> None:
        self.now = NOW
        self.streams: dict[str, int] = {}
        config = SiteConfig(servlets=2, rotate_every=40.0, overlap=5.0, drain=10.0, drain_max=50.0, exposure_max=6)
        self.one = SiteRole("wiki", config, signer, deliver, Random(seed), carried=lambda name: self.streams.get(name, 0))
        self.one.set_pool([node(f"n{i}") for i in range(1, 9)], NOW)
        self.end: dict[str, float] = {}
        self.applied: set[str] = set()
        self.mute: set[str] = set()
        self.burned: set[str] = set()
        self.beyond = 0
        self.lag = False
        self.epochs: list[int] = []

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        self._work()
        while (due := self.one.poll_timeout()) is not None and due <= until:
            self.now = max(self.now, due)
            self._work()
        self.now = until
        self._work()

    @rule()
    def rotate(self) -> None:
        self.one.rotate(self.now)

    @rule(name=st.sampled_from(["n1", "n2", "n3"]))
    def burn(self, name: str) -> None:
        if len(self.burned | {name}) <= 2:
            self.one.burn(name, self.now)
            self.burned.add(name)

    @rule(name=st.sampled_from(["n4", "n5", "n6"]))
    def fall_silent_or_speak(self, name: str) -> None:
        self.mute ^= {name}

    @rule(name=st.sampled_from([f"n{i}" for i in range(1, 9)]), count=st.integers(0, 2))
    def streams_open_and_end(self, name: str, count: int) -> None:
        if self.one.stages().get(name) in {Stage.SERVING, Stage.DRAINING} or not count:
            self.streams[name] = count

    @rule()
    def filter_lags_or_not(self) -> None:
        self.lag = not self.lag

    def _work(self) -> None:
        before = self.one.stages()
        self.one.handle_timeout(self.now)
        for name in before.keys() - self.one.stages().keys():
            assert before[name] is Stage.DRAINING
            if self.streams.get(name):
                assert name in self.one.cut() and self.now >= self.end[name] + 50.0, "cut before its time"
        self._note_who_drains(before)
        for name in self.one.cut():
            self.streams.pop(name, None)
        if not self.lag:
            self.applied = {a.member.name for a in self.one.admitted()}
            self.one.filter_applied(self.one.filter_version, self.now)
        before = self.one.stages()
        for call in calls(self.one):
            assert call.to is not None
            if call.method == "appoint":
                assert call.to.name in self.applied, "appointed before the filter admits it"
                assert call.to.name not in self.burned
                self.epochs.append(appointment_in(call).epoch)
            if call.to.name in self.mute:
                self.one.failed(call.request_id, 0, "silent", self.now)
            else:
                self.one.answered(call.request_id, call.to, Appointed(True, 1) if call.method == "appoint" else Done(), self.now)
        self._note_who_drains(before)

    def _note_who_drains(self, before: dict[str, Stage]) -> None:
        for name, stage in self.one.stages().items():
            if stage is Stage.DRAINING and before.get(name) is not Stage.DRAINING:
                self.end[name] = self.now

    @invariant()
    def who_is_not_told_to_go_is_admitted(self) -> None:
        admitted = {a.member.name: a for a in self.one.admitted()}
        assert len({a.slot for a in admitted.values()}) == len(admitted)
        assert not set(admitted) & self.burned
        for name, stage in self.one.stages().items():
            assert name in admitted
            assert (admitted[name].until is not None) == (stage is Stage.DRAINING)

    @invariant()
    def few_ever_know_the_way_in(self) -> None:
        while (event := self.one.poll_event()) is not None:
            self.beyond += event.what == "overexposed"
        assert len(self.one.exposed) <= 6 + self.beyond, "more than the bound, and than it says"

    @invariant()
    def enough_are_in_place_while_the_pool_allows(self) -> None:
        staying = [s for s in self.one.stages().values() if s is not Stage.DRAINING]
        assert len(staying) >= 1

    def teardown(self) -> None:
        if hasattr(self, "one"):
            self.lag, self.mute = False, set()
            self.wait(200.0)
            assert self.one.serving() >= 2


TestSites = Sites.TestCase
TestSites.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
