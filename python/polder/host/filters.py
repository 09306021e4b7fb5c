"""Applying a filter so that a mistake undoes itself.

``apply`` first writes down the way back (the site's table as nft lists it), with a deadline, then swaps tables in one
transaction. Whoever watches (the host helper, or a detached ``polder.host.watchdog``) takes the way back at the deadline
unless ``confirm`` removed the note. The note lives in a directory that a reboot empties, as it empties the ruleset; the
deadline counts on the boot clock, which no clock step and no suspend confuses. A crash at any instruction leaves either
no note (nothing changed, or confirmed), or a note whose way back is right.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from polder.host.commands import HostError, run
from polder.host.messages import FilterState
from polder.model.ids import parse_name
from polder.perimeter import Place, Plan, nftables

RUN_DIRECTORY = Path("/run/polder/filter")
_COUNTER = re.compile(r"counter (\w+) \{\s*(?:comment \"[^\"]*\"\s*)?packets (\d+) bytes (\d+)")


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An unconfirmed filter: the way back, and the boot-clock second at which it is taken."""

    site: str
    deadline: float
    before: str | None


def boot_clock() -> float:
    """Seconds since boot, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FilterKeeper:
    """Filters of this network namespace. Several processes may share ``directory``: each step holds its lock."""

    def __init__(self, directory: Path = RUN_DIRECTORY) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def apply(self, plan: Plan, now: float, place: Place, trusted: tuple[str, ...], rollback_after: float | None) -> None:
        """Put ``plan`` in force at ``now`` (Unix seconds). Raises ``HostError``; then the old filter is still in force.

        A second unconfirmed apply keeps the first one's way back: rollback means the last filter that somebody confirmed.
        """
        text = nftables.render(plan, now, place, trusted)
        with self._locked():
            earlier = self._read(plan.site)
            if rollback_after is not None:
                before = earlier.before if earlier else _listed(plan.site)
                self._write(Pending(plan.site, boot_clock() + rollback_after, before))
            try:
                _swap(plan.site, text)
            except HostError:
                if earlier:
                    self._write(earlier)
                else:
                    self._path(plan.site).unlink(missing_ok=True)
                raise
            if rollback_after is None:
                self._path(plan.site).unlink(missing_ok=True)

    def confirm(self, site: str) -> None:
        """Keep what was applied; raises ``HostError`` when nothing waits for it."""
        with self._locked():
            if self._read(site) is None:
                raise HostError(f"no filter of site {site} waits for a confirmation: it was confirmed or rolled back already")
            self._path(site).unlink()

    def rollback(self, site: str) -> None:
        """Take the way back now; raises ``HostError`` when there is none."""
        with self._locked():
            self._back(site)

    def rollback_due(self, *, all_of_them: bool = False) -> list[str]:
        """Take the way back for every site whose deadline has passed, or for all that wait; returns them."""
        with self._locked():
            due = [each.site for each in self._all() if all_of_them or each.deadline <= boot_clock()]
            for site in due:
                self._back(site)
        return due

    def next_deadline(self) -> float | None:
        """Seconds until the next way back is due; ``None`` when nothing waits."""
        with self._locked():
            deadlines = [each.deadline for each in self._all()]
        return max(0.0, min(deadlines) - boot_clock()) if deadlines else None

    def state(self, site: str) -> FilterState:
        """Whether the site's filter is in force, what waits, what it counted."""
        with self._locked():
            pending = self._read(parse_name(site))
            listed = _listed(site)
        counters = {name: (int(packets), int(size)) for name, packets, size in _COUNTER.findall(listed or "")}
        left = None if pending is None else max(0.0, pending.deadline - boot_clock())
        return FilterState(site, listed is not None, left, counters)

    def remove(self, site: str) -> None:
        """Take the site's filter away, whatever waits."""
        with self._locked():
            run("nft", "-f", "-", stdin=nftables.remove(parse_name(site)))
            self._path(site).unlink(missing_ok=True)

    def _back(self, site: str) -> None:
        pending = self._read(site)
        if pending is None:
            raise HostError(f"no unconfirmed filter of site {site}: nothing to roll back")
        run("nft", "-f", "-", stdin=nftables.restore(site, pending.before))
        self._path(site).unlink()

    def _path(self, site: str) -> Path:
        return self.directory / f"{parse_name(site)}.pending"

    def _read(self, site: str) -> Pending | None:
        try:
            return msgspec.json.decode(self._path(site).read_bytes(), type=Pending)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise HostError(f"{self._path(site)} is damaged ({error}): remove it after checking the filter") from error

    def _all(self) -> list[Pending]:
        found = [self._read(path.stem) for path in sorted(self.directory.glob("*.pending"))]
        return [each for each in found if each is not None]

    def _write(self, pending: Pending) -> None:
        fresh = self._path(pending.site).with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(pending))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path(pending.site))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _swap(site: str, text: str) -> None:
    """One transaction. Where another version laid the table differently, it goes in the same transaction, counters with it."""
    try:
        run("nft", "-f", "-", stdin=text)
    except HostError:
        run("nft", "-f", "-", stdin=nftables.remove(site) + text)


def _listed(site: str) -> str | None:
    """The site's table as nft lists it; ``None`` when there is none. Absence is read from the list, not from an error's text."""
    listing = json.loads(run("nft", "-j", "list", "tables"))["nftables"]
    names = {entry["table"]["name"] for entry in listing if "table" in entry and entry["table"]["family"] == "inet"}
    name = nftables.table(site)
    return run("nft", "list", "table", "inet", name) if name in names else None
