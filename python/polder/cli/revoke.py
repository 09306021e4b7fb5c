"""``polder revoke``: stop believing an identity or a key; says which nodes know, and what they cut."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from polder.api.authority_dir import load_settings, open_ledger
from polder.cli.answer import answer, common, find_state
from polder.model import Kind, Refused, SpiffeId, Verdict, parse_name
from polder.shell.clock import wall

FINDINGS = 3
"""Exit status: done, but not in force everywhere."""


@click.command()
@click.argument("kind", type=click.Choice([*(str(kind) for kind in Kind), "key"]))
@click.argument("name")
@click.option("--reason", default="", help="For the record.")
@common
def revoke(kind: str, name: str, reason: str, state: str | None, as_json: bool) -> int:
    """Stop believing the KIND called NAME and every key that it ever had, or only one key: key SHA256.

    The authority tells every node at once, and each cuts what is open. Exit status 3: recorded, but some node has not
    answered; it refuses the revoked when it next hears the authority or another node.
    """
    place = find_state(state)
    settings = load_settings(place, os.environ)
    ledger = open_ledger(place, settings)
    try:
        if kind == "key":
            hashed = _hash(name)
            epoch, holder = ledger.revoke_key(hashed, reason, wall())
            facts: dict[str, Any] = {"key": hashed.hex(), "identity": holder, "epoch": epoch, "keys": 1}
            text = f"Revoked the key {hashed.hex()[:16]}… of {holder}: revocation epoch {epoch}."
            again = "polder invite KIND NAME, for a new key of the same identity"
        else:
            who = SpiffeId(settings.trust_domain, Kind(kind), parse_name(name))
            epoch, keys = ledger.revoke(who, reason, wall())
            facts = {"identity": str(who), "epoch": epoch, "keys": keys}
            text = f"Revoked {who} and {keys} key{'' if keys == 1 else 's'}: revocation epoch {epoch}."
            again = f"polder invite {kind} {name} --reinstate, if this was a mistake"
    finally:
        ledger.close()
    told = announce(place.authority)
    answer(facts | (told or {}), f"{text}\n{describe(told)}", again if told else "polder authority serve", as_json=as_json)
    return 0 if told and not told["silent"] else FINDINGS


def announce(directory: Path) -> dict[str, Any] | None:
    """Let the authority that runs here tell all nodes, and what they said; ``None``: none runs here."""
    from polder.api.admin import ask

    try:
        return asyncio.run(ask(directory / "admin.sock", "announce", {}))
    except OSError:
        return None


def describe(told: dict[str, Any] | None) -> str:
    """What the nodes said, for a person."""
    if told is None:
        return "The authority does not run here: nodes hear of it when it does."
    known, nodes = len(told["acknowledged"]), told["nodes"]
    cut = f"{told['connections_cut']} connections and {told['tunnels_cut']} tunnels were cut"
    text = f"In force on {known} of {nodes} nodes after {told['seconds']:.2f} s; {cut}."
    return "\n".join([text, *(f"  no answer from {name}: {why}" for name, why in told["silent"].items())])


def _hash(text: str) -> bytes:
    raw = text.strip().lower().removeprefix("sha256:")
    try:
        hashed = bytes.fromhex(raw)
    except ValueError:
        hashed = b""
    if len(hashed) != 32:
        raise Refused(
            Verdict.MALFORMED, "that is not the SHA-256 of a key: 64 hexadecimal digits, as `polder authority list --json` says"
        )
    return hashed
