"""``polder rotate issuer``: replace the authority's online key, in visible steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from polder.api.authority_dir import Authority, load_authority, load_roots
from polder.api.issuers import open_offline
from polder.api.rotation import Rotation, Status
from polder.api.tls import new_key
from polder.cli.answer import DURATION, answer, common, find_state, read_secret
from polder.cli.revoke import announce, describe
from polder.model import Refused, Verdict
from polder.settings import ConfigError, StateDir
from polder.settings.quantities import format_duration
from polder.shell.clock import chance, wall

PLAN = """A rotation of the issuer takes these steps; everything goes on working during all of them.

  prepare   the root, brought back from its medium (--offline DIR), signs a new issuer
  announce  every node hears of it, and accepts certificates of both, for --announce (7d unless said otherwise).
            Readers who use a browser without forwarder make a new profile within this time (`polder client profile`) and
            import it beside the old one: after the switch, nodes show certificates of the new issuer.
  switch    the new issuer signs. The running authority takes this step by itself when the time has come
  drain     every identity renews: nodes and sites within a day, readers within three weeks as the lives usually are.
            `polder rotate issuer status` counts who has not
  retire    --finish: the old issuer is believed no more. Browser profiles from before the rotation stop now.

--abort goes back, at any time before --finish. If the old key may be stolen: --start --announce 0s, then --finish --force as
soon as the nodes have renewed; who has not is cut off until he renews, and needs no invitation for that."""


@click.group()
def rotate() -> None:
    """Replace keys of the authority."""


@rotate.command()
@click.argument("what", type=click.Choice(["status"]), required=False)
@click.option("--plan", is_flag=True, help="Say what would happen, and change nothing.")
@click.option("--start", is_flag=True, help="Prepare and announce a new issuer; repeat it to resume.")
@click.option("--abort", is_flag=True, help="Go back to the old issuer.")
@click.option("--finish", is_flag=True, help="Retire the old issuer for good.")
@click.option("--offline", metavar="DIR", help="Copy of offline/ with the root key, for --start.")
@click.option("--announce", "after", type=DURATION, default="7d", show_default=True, help="From --start to the switch.")
@click.option("--root-password-file", metavar="FILE", help="Password of the root key, if it is not in --offline.")
@click.option("--issuer-password-file", metavar="FILE", help="Password of the issuer's key, if it is not in authority/.")
@click.option("--force", is_flag=True, help="Let --finish cut off who has not renewed.")
@common
def issuer(
    what: str | None,
    plan: bool,
    start: bool,
    abort: bool,
    finish: bool,
    offline: str | None,
    after: float,
    root_password_file: str | None,
    issuer_password_file: str | None,
    force: bool,
    state: str | None,
    as_json: bool,
) -> int:
    """Replace the issuer, the key that signs certificates, under the same root. Without an option: where it stands."""
    if sum((plan, start, abort, finish, what is not None)) > 1:
        raise ConfigError("command line", "", "one of status, --plan, --start, --abort and --finish at a time")
    if plan:
        answer({"plan": PLAN.splitlines()}, PLAN, "polder rotate issuer --start --offline DIR", as_json=as_json)
        return 0
    place = find_state(state)
    password = read_secret(issuer_password_file, "issuer password") if issuer_password_file else None
    authority = load_authority(place, os.environ, password)
    rotation = Rotation(authority.ledger, wall)
    step: Callable[[], None] | None = None
    if start:
        root_password = read_secret(root_password_file, "root password") if root_password_file else None
        step = lambda: _start(rotation, authority, place, offline, root_password, after)  # noqa: E731
    elif abort:
        step = lambda: _abort(rotation, authority)  # noqa: E731
    elif finish:
        step = lambda: _finish(rotation, authority, force=force)  # noqa: E731
    try:
        if step is not None:
            step()
        status = rotation.status()
    finally:
        authority.ledger.close()
    told = announce(place.authority) if step is not None else None
    return _say(status, told, changed=step is not None, as_json=as_json)


def _start(
    rotation: Rotation, authority: Authority, place: StateDir, offline: str | None, root_password: str | None, after: float
) -> None:
    phase = rotation.status().phase
    if phase == "none":
        if offline is None:
            raise ConfigError("command line", "offline", "the root signs the new issuer: bring its medium, --offline DIR")
        from pathlib import Path

        root, der = open_offline(Path(offline), root_password)
        if der not in load_roots(place):
            raise Refused(Verdict.FOREIGN, f"the root in {offline} is another overlay's ({root.trust_domain})")
        rotation.prepare(place.authority, root, authority.password, new_key, chance())
    elif phase == "draining":
        raise Refused(Verdict.DENIED, "a rotation is under way and has switched already: --finish or --abort it first")
    rotation.announce(after)


def _abort(rotation: Rotation, authority: Authority) -> None:
    rotation.abort(authority.directory)


def _finish(rotation: Rotation, authority: Authority, *, force: bool) -> None:
    if not rotation.finish(authority.directory, force=force):
        raise Refused(Verdict.UNKNOWN, "no rotation of the issuer is under way")


def _say(status: Status, told: dict[str, Any] | None, *, changed: bool, as_json: bool) -> int:
    """Print where it stands, and what the nodes said if a step was taken; the exit status."""
    text, following = _words(status)
    if changed:
        text += f"\n{describe(told)}"
    facts = status.record() | ({"told": told} if changed else {})
    answer(facts, text, following, as_json=as_json)
    return 0 if not changed or (told and not told["silent"]) else 3


def _words(status: Status) -> tuple[str, str]:
    match status.phase:
        case "prepared":
            return "Prepared: the new issuer is signed, and nobody knows it yet.", "polder rotate issuer --start"
        case "announced":
            due = max(0.0, (status.due or 0) - wall())
            when = datetime.fromtimestamp(status.due or 0, UTC).strftime("%Y-%m-%d %H:%M UTC")
            soon = f"in {format_duration(round(due))}, at {when}" if due >= 1 else "as soon as the authority runs"
            return f"Announced: both issuers are believed. The new one signs {soon}.", "polder rotate issuer status"
        case "draining":
            left = f"{len(status.holders)} identities have not renewed yet; {status.certificates} certificates of the old one are valid."
            done = "polder rotate issuer --finish" if not status.holders else "polder rotate issuer status"
            return f"Draining: the new issuer signs, the old one is believed still. {left}", done
    return "No rotation is under way.", "polder rotate issuer --plan"
