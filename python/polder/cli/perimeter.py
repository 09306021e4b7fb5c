"""``polder filter``: show, apply, confirm and export what the site's agent says its filter must admit."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from polder.cli.answer import DURATION, answer, common, find_state
from polder.host import FilterState, Host, HostError, HostHelper, LocalHost
from polder.host.client import SOCKET
from polder.host.filters import RUN_DIRECTORY
from polder.host.watchdog import spawn
from polder.model import Refused, Verdict
from polder.perimeter import Place, Plan, flowspec, from_json, iptables, nftables, redact, to_json
from polder.settings.quantities import format_duration
from polder.shell.clock import wall

_PLACE = click.option(
    "--place",
    type=click.Choice([str(place) for place in Place]),
    default=str(Place.ROUTER),
    show_default=True,
    help="Where the filter stands: a router upstream of the narrow link, or the gateway itself.",
)
_PLAN = click.option(
    "--plan",
    "file",
    type=click.Path(path_type=Path),
    help="Plan file, - for standard input (ssh router polder filter apply … --plan - < filter.json). "
    "Default: what the site's agent writes here.",
)
_TRUSTED = click.option(
    "--trusted", multiple=True, metavar="IFACE", help="Interface of the inside, not filtered; may be repeated."
)
_HELPER = click.option(
    "--helper",
    type=click.Path(path_type=Path),
    help=f"Socket of a host helper; default: {SOCKET} if there, else this process (root).",
)
_SITE = click.argument("site", required=False)


@click.group("filter")
def filter_group() -> None:
    """Plan, apply, confirm and export the perimeter filter of a site."""


@filter_group.command()
@_SITE
@_PLAN
@common
def plan(site: str | None, file: Path | None, state: str | None, as_json: bool) -> None:
    """Show what the filter of SITE must admit, without its keys."""
    found = _read(site, file, state)
    step = (
        f"polder filter apply {found.site} --rollback-after 60s (on the filtering router), or polder filter export {found.site}"
    )
    answer(redact(found), _describe(found, wall()), step, as_json=as_json)


@filter_group.command()
@_SITE
@_PLAN
@_PLACE
@_TRUSTED
@_HELPER
@click.option(
    "--rollback-after",
    type=DURATION,
    default=60.0,
    show_default="60s",
    help="Undo unless confirmed within this time; 0: keep at once.",
)
@common
def apply(
    site: str | None,
    file: Path | None,
    place: str,
    trusted: tuple[str, ...],
    helper: Path | None,
    rollback_after: float,
    state: str | None,
    as_json: bool,
) -> None:
    """Put the plan of SITE in force on this machine; it goes back by itself unless it is confirmed."""
    found = _read(site, file, state)
    after = rollback_after or None
    now = asyncio.run(_apply(found, Place(place), trusted, helper, after))
    text = (
        f"Filter of {found.site} in force: plan {found.version}, {len(found.live(wall(), 4)) + len(found.live(wall(), 6))} pairs."
    )
    step = f"polder filter status {found.site}"
    if after is not None:
        text += f" It goes back in {format_duration(after)}."
        step = f"look whether everything still works, then polder filter confirm {found.site}"
        if not as_json and sys.stdin.isatty() and click.confirm("Does everything still work? Keep it", default=None):
            asyncio.run(_with(helper, lambda host: host.filter_confirm(found.site)))
            now, text, step = FilterState(found.site, True, None, now.counters), f"Filter of {found.site} kept.", "polder status"
    answer(_facts(now), text, step, as_json=as_json)


@filter_group.command()
@click.argument("site")
@_HELPER
@common
def confirm(site: str, helper: Path | None, state: str | None, as_json: bool) -> None:
    """Keep the filter of SITE that was applied."""
    asyncio.run(_with(helper, lambda host: host.filter_confirm(site)))
    answer({"site": site, "confirmed": True}, f"Filter of {site} kept.", f"polder filter status {site}", as_json=as_json)


@filter_group.command()
@click.argument("site")
@_HELPER
@common
def rollback(site: str, helper: Path | None, state: str | None, as_json: bool) -> None:
    """Go back to the last confirmed filter of SITE now."""
    asyncio.run(_with(helper, lambda host: host.filter_rollback(site)))
    answer({"site": site, "rolled_back": True}, f"Filter of {site} as before.", f"polder filter status {site}", as_json=as_json)


@filter_group.command()
@click.argument("site")
@_HELPER
@common
def status(site: str, helper: Path | None, state: str | None, as_json: bool) -> int:
    """Show whether the filter of SITE is in force here and what it counted; exit status 3 if it is not."""
    found = asyncio.run(_with(helper, lambda host: host.filter_state(site)))
    lines = [f"Filter of {site}: {'in force' if found.in_force else 'not in force'}."]
    if found.rollback_in is not None:
        lines.append(f"Not confirmed: goes back in {format_duration(found.rollback_in)}.")
    lines += [f"  {name:8} {packets:>12} packets {size:>15} bytes" for name, (packets, size) in found.counters.items()]
    steps = {True: f"polder filter confirm {site}" if found.rollback_in is not None else "", False: f"polder filter apply {site}"}
    answer(_facts(found), "\n".join(lines), steps[found.in_force], as_json=as_json)
    return 0 if found.in_force else 3


@filter_group.command()
@click.argument("site")
@_HELPER
@click.option("--yes", is_flag=True, help="Do not ask: the perimeter is open afterwards.")
@common
def remove(site: str, helper: Path | None, yes: bool, state: str | None, as_json: bool) -> None:
    """Take the filter of SITE away: anybody can send to the site afterwards."""
    if not yes:
        click.confirm(f"Open the perimeter of {site} to everybody?", abort=True)
    asyncio.run(_with(helper, lambda host: host.remove_filter(site)))
    answer({"site": site, "removed": True}, f"The perimeter of {site} is open.", f"polder filter apply {site}", as_json=as_json)


@filter_group.command()
@_SITE
@_PLAN
@_PLACE
@_TRUSTED
@click.option(
    "--format",
    "form",
    type=click.Choice(["nftables", "iptables", "ip6tables", "exabgp", "plan"]),
    default="nftables",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path), help="File (made with mode 0600); default: standard output.")
@click.option("--state", help="State directory.")
def export(
    site: str | None, file: Path | None, place: str, trusted: tuple[str, ...], form: str, output: Path | None, state: str | None
) -> None:
    """Write the filter of SITE for another router. All forms but exabgp hold the GRE keys: treat them as secrets.

    `plan` is what `polder filter apply SITE --plan -` reads there.
    """
    found, now, where = _read(site, file, state), wall(), Place(place)
    texts = {
        "nftables": lambda: nftables.render(found, now, where, trusted),
        "iptables": lambda: iptables.render(found, now, 4, where),
        "ip6tables": lambda: iptables.render(found, now, 6, where),
        "exabgp": lambda: flowspec.render(found, now),
        "plan": lambda: to_json(found).decode(),
    }
    text = texts[form]()
    if output is None:
        click.echo(text, nl=False)
        return
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as target:
        target.write(text)
    loads = {"nftables": "nft -f", "iptables": "iptables-restore --noflush", "ip6tables": "ip6tables-restore --noflush"}
    how = f"{loads[form]} {output}" if form in loads else f"put it into a neighbor of ExaBGP: {output}"
    click.echo(f"Written to {output}. Next: {how}", err=True)


def plan_file(site: str | None, state: str | None) -> Path:
    """Where the agent of ``site`` (or of the only one here) writes its plan."""
    return find_state(state).only("site", site) / "filter.json"


def _read(site: str | None, file: Path | None, state: str | None) -> Plan:
    path = file or plan_file(site, state)
    try:
        found = from_json(sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes())
    except FileNotFoundError:
        why = (
            f"no plan at {path}: start the site's agent (`polder site run`), which writes it when it has appointed servlets; "
            "a site that dials out needs a filter only if its settings name an edge address"
        )
        raise Refused(Verdict.UNKNOWN, why, retry=True) from None
    if site is not None and found.site != site:
        raise Refused(Verdict.MALFORMED, f"{path} is the plan of site {found.site}, not of {site}")
    return found


async def _apply(found: Plan, place: Place, trusted: tuple[str, ...], helper: Path | None, after: float | None) -> FilterState:
    state: FilterState = await _with(helper, lambda host: host.filter_apply(found, place, trusted, after))
    if after is not None and _socket(helper) is None:
        spawn(RUN_DIRECTORY)
    return state


async def _with(helper: Path | None, work: Any) -> Any:
    """Do it through the helper, or here when there is none and this is root."""
    with host_errors():
        path = _socket(helper)
        host: Host = HostHelper(path) if path is not None else LocalHost(wall)
        async with host:
            return await work(host)


def _socket(helper: Path | None) -> Path | None:
    if helper is not None:
        return helper
    if SOCKET.exists():
        return SOCKET
    if os.geteuid() != 0:
        raise Refused(
            Verdict.DENIED, f"no host helper at {SOCKET} and not root: start `polder host-helper` as root, or run this as root"
        )
    return None


@contextmanager
def host_errors() -> Iterator[None]:
    """The host's complaints as refusals, which the command line knows how to say."""
    try:
        yield
    except HostError as error:
        raise Refused(Verdict.BUSY if error.retry else Verdict.DENIED, error.why, error.retry) from error


def _facts(state: FilterState) -> dict[str, Any]:
    counters = {name: {"packets": packets, "bytes": size} for name, (packets, size) in state.counters.items()}
    return {"site": state.site, "in_force": state.in_force, "rollback_in_s": state.rollback_in, "counters": counters}


def _describe(found: Plan, now: float) -> str:
    lines = [f"Site {found.site}, plan {found.version}. Shut: {', '.join(str(n) for f in (4, 6) for n in found.protected(f))}"]
    for pair in found.pairs:
        ends = datetime.fromtimestamp(pair.not_after, UTC).isoformat(timespec="seconds")
        lines.append(f"  admit GRE from {pair.source} with its key until {ends}{'' if pair.not_after > now else ' (ended)'}")
    for flow in found.flows:
        ports = " ".join(f"{name} port {port}" for name, port in (("source", flow.source_port), ("to", flow.dest_port)) if port)
        kind = "begun inside" if flow.stateful else "answers only" if flow.established else "anything"
        lines.append(f"  admit {flow.protocol} from {flow.source} {ports} ({kind}){f': {flow.why}' if flow.why else ''}")
    return "\n".join(lines)
