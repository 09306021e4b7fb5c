"""Conversations with one Chord machine, written down line by line.

    << b: neighbours?                       node b asks (numbered from 1 on)
    << b replies successors c d             the answer to the oldest unanswered message to b
    << silence from b                       the oldest unanswered message to b gets no answer
    << 2.5 s                                time passes; timers fire
    >> b: neighbours?                       the machine asks b
    >> reply 1: busy                        the machine answers request 1
    == list c d / == pred b / == joined / == idle        what it has become

Members are letters; a letter's place on the ring is its place in the alphabet. Every output must be expected, in order.
"""

from __future__ import annotations

from random import Random
from typing import Any

from polder.model import Kind, Member
from polder.model import ring_messages as m
from polder.model.overlay_messages import Caller
from polder.ring import Chord, ChordConfig, Reply, Send

CONFIG = ChordConfig(successors=3, found_after=15.0, finger_every=1e9, reunite_every=1e9)
"""Fingers and reunion stay out of conversations that are not about them."""


def member(letter: str) -> Member:
    """The member at that letter."""
    return Member.of(letter, ord(letter) << 120, f"10.0.0.{ord(letter)}:7443")


def members(letters: list[str]) -> tuple[Member, ...]:
    """Several."""
    return tuple(member(letter) for letter in letters)


def key(letter: str) -> bytes:
    """The place of a letter, as a key."""
    return member(letter).ring_id


class Conversation:
    """One machine, called ``me``, at time 0."""

    def __init__(self, me: str, config: ChordConfig = CONFIG, seed: int = 1) -> None:
        self.now = 0.0
        self.machine = Chord(member(me), config, Random(seed))
        self.events: list[Any] = []
        self._asked: list[Send] = []
        self._said: list[str] = []
        self._requests = 0

    def settled(self, pred: str | None, successors: str) -> Conversation:
        """Make it a member with these neighbours, between two operations, its next stabilisation due at ``tick``."""
        self.machine.found(self.now)
        self.machine.handle_timeout(self.now)
        self.machine.table.set_predecessor(member(pred) if pred else None)
        self.machine.table.set_successors(members(successors.split()))
        self._collect()
        self._said.clear()
        self._asked.clear()
        return self

    def joining(self, *known: str) -> Conversation:
        """About to join a ring of which it knows these."""
        self.machine.join([member(name) for name in known], 0.0)
        return self

    def tick(self) -> None:
        """Let time pass until the next stabilisation."""
        assert self.machine._stabilise_at is not None
        self.now = max(self.now, self.machine._stabilise_at)
        self.machine.handle_timeout(self.now)
        self._collect()

    def says(self, script: str) -> None:
        """Play the script."""
        for raw in script.strip().splitlines():
            line = raw.split("#")[0].strip()
            if not line:
                continue
            verb, rest = line[:2], line[2:].strip()
            if verb == ">>":
                assert self._said, f"expected {line!r}, but it said nothing"
                said = self._said.pop(0)
                assert said == rest, f"expected {line!r}, but it said {said!r}"
            elif verb == "==":
                self._check(rest)
            else:
                assert not self._said, f"unexpected {self._said} before {line!r}"
                self._input(rest)
        assert not self._said, f"unexpected {self._said}"

    def _input(self, text: str) -> None:
        words = text.split()
        if words[-1] == "s":
            until = self.now + float(words[0])
            while (due := self.machine.poll_timeout()) is not None and due <= until:
                self.now = max(self.now, due)
                self.machine.handle_timeout(self.now)
                self._collect()
            self.now = until
        elif words[0] == "silence":
            self.machine.failed(self._take(words[-1]).request_id, self.now)
        elif words[1] == "replies":
            send = self._take(words[0])
            self.machine.answered(send.request_id, answer(words[0], words[2:]), self.now)
        else:
            sender = member(words[0].rstrip(":"))
            self._requests += 1
            caller = Caller(Kind.NODE, sender.name, sender.ring_id)
            self.machine.handle(request(sender, words[1:]), caller, self._requests, self.now)
        self._collect()

    def _check(self, text: str) -> None:
        what, *letters = text.split()
        found = {
            "list": [s.name for s in self.machine.successors()],
            "pred": [self.machine.predecessor.name] if self.machine.predecessor else [],
            "joined": [] if self.machine.joined else ["not"],
            "outside": ["not"] if self.machine.joined else [],
            "idle": ["busy"] if self.machine.busy else [],
        }[what]
        assert found == letters, f"{text!r}, but it is {found}"

    def _take(self, name: str) -> Send:
        send = next(s for s in self._asked if s.to.name == name)
        self._asked.remove(send)
        return send

    def _collect(self) -> None:
        while (output := self.machine.poll_transmit()) is not None:
            if isinstance(output, Send):
                self._asked.append(output)
                self._said.append(f"{output.to.name}: {describe(output.message)}")
            else:
                assert isinstance(output, Reply)
                self._said.append(f"reply {output.reply_to}: {describe(output.message)}")
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)


def describe(message: m.RingMessage) -> str:
    """One line for a message."""
    words = [str(message.__struct_config__.tag)]
    match message:
        case m.Neighbours(predecessor=p, members=listed):
            words += [f"pred={p.name if p else '-'}", *(each.name for each in listed)]
        case m.Successors(members=listed) | m.Found(members=listed):
            words += [each.name for each in listed]
            words += ["final"] if isinstance(message, m.Found) and message.final else []
        case m.BestPredecessor(member=best):
            words.append(best.name)
        case m.GetBestPredecessor(key=at, avoid=avoid):
            words += [chr(at[0]), *(f"-{chr(each[0])}" for each in avoid)]
        case m.Find(key=at):
            words.append(chr(at[0]))
    return " ".join(words)


def request(sender: Member, words: list[str]) -> m.RingRequest:
    """The message in words."""
    simple: dict[str, Any] = {
        "neighbours?": m.GetNeighbours, "successors?": m.GetSuccessors, "notify": m.Notify, "ping": m.Ping, "leaving": m.Leaving
    }  # fmt: skip
    if words[0] in simple:
        return simple[words[0]](sender)
    if words[0] == "find":
        return m.Find(sender, key(words[1]))
    assert words[0] == "best-predecessor?"
    return m.GetBestPredecessor(sender, key(words[1]), tuple(key(w[1:]) for w in words[2:]))


def answer(name: str, words: list[str]) -> m.RingAnswer:
    """The answer in words, in the name of ``name``, or of ``as=x``."""
    if words[-1].startswith("as="):
        name = words.pop()[3:]
    sender = member(name)
    simple: dict[str, Any] = {"pong": m.Pong, "busy": m.Busy, "not-joined": m.NotJoined}
    if words[0] in simple:
        return simple[words[0]](sender)
    if words[0] == "successors":
        return m.Successors(sender, members(words[1:]))
    if words[0] == "best-predecessor":
        return m.BestPredecessor(sender, member(words[1]))
    if words[0] == "found":
        final = words[-1] == "final"
        return m.Found(sender, final, members(words[1:-1] if final else words[1:]))
    assert words[0] == "neighbours"
    before = words[1].removeprefix("pred=")
    return m.Neighbours(sender, None if before == "-" else member(before), members(words[2:]))
