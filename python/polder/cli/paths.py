"""``polder paths``: the relays over which a user's tunnels go, and how each is doing."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from polder.api.asking import ask_now
from polder.settings.quantities import parse_redundancy
from polder.settings.state import StateDir


@click.command()
@click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder).")
@click.option("--user", help="Whose forwarder; default: the only one enrolled here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def paths(state: str | None, user: str | None, as_json: bool) -> int:
    """Show each session of the running forwarder, and of each relay: loss, delay, weight, duplicates.

    Exit status 3 when the forwarder may use relays and no session is up.
    """
    path = StateDir.find(state, os.environ, os.getuid()).only("user", user)
    found = ask_now(path / "admin.sock", "paths")
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    up = any(session["up"] for session in found["sessions"])
    return 0 if up or found["plane"] == "tunnel" else 3


def _print(found: dict[str, Any]) -> None:
    click.echo(f"Plane {found['plane']} · redundancy {_redundancy(found['redundancy'])}")
    for session in found["sessions"]:
        click.echo(f"\n{session['site']}: {_state(session)}")
        click.echo(
            f"  {'relay':<24}{'state':<10}{'weight':>7}{'loss':>8}{'delay':>10}{'sent':>9}{'came':>9}{'twice':>8}{'mtu':>7}"
        )
        for path in session["paths"]:
            delay = "–" if path["delay_us"] is None else f"{path['delay_us'] / 1000:.1f} ms"
            click.echo(
                f"  {path['relay']:<24}{path['state']:<10}{path['weight']:>7.1%}{path['loss']:>8.1%}{delay:>10}"
                f"{path['sent']:>9}{path['received']:>9}{path['duplicates']:>8}{path['mtu']:>7}"
            )
    if found["plane"] == "tunnel":
        click.echo("Tunnels go through access points only. Next: polder connect --plane auto")
    elif not found["sessions"]:
        click.echo("No session yet: one begins when a page is read. Next: open a site, then polder paths again.")
    else:
        click.echo("\nDelay is what a relay takes more than the quickest. Next: polder watch")


def _redundancy(text: str) -> str:
    redundancy = parse_redundancy(text)
    if redundancy.fec is None:
        return f"{redundancy.copies:g} extra copies per packet"
    return "{1} repairs to {0} datagrams".format(*redundancy.fec)


def _state(session: dict[str, Any]) -> str:
    if not session["up"]:
        return "connecting"
    if session["carrier"] == "tunnel":
        return f"no relay answers: what is open goes on through an access point, round trip {session['rtt_us'] / 1000:.1f} ms"
    use = "carries tunnels" if session["prefer"] else "set aside: tunnels go through access points"
    opened = f", opens in {session['open_us'] / 1000:.0f} ms" if session["open_us"] else ""
    through = f" ({session['tunnel_rtt_us'] / 1000:.1f} ms through an access point)" if session["tunnel_rtt_us"] else ""
    return f"{use}, round trip {session['rtt_us'] / 1000:.1f} ms{through}{opened}, {session['tunnels']} tunnels, {session['failed']} failed"
