"""``polder join`` and ``polder enroll``: an identity from a token. The key is made here and never leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
from cryptography import x509

from polder.api.enrolment import enrol_here
from polder.cli.answer import answer, common, find_state, read_secret
from polder.model import Kind
from polder.settings import ConfigError, NodeSettings, load, write_atomic
from polder.settings.identity import IdentityDir
from polder.settings.node import is_wildcard
from polder.settings.quantities import parse_address
from polder.settings.toml import dump
from polder.trust.profiles import read_identity

_TOKEN_HELP = "File with the token, or - for standard input."  # noqa: S105 - a help text


@click.command()
@click.argument("url")
@click.option("--pin", required=True, help="The authority's root, sha256:…, as the invitation says.")
@click.option("--token-file", required=True, metavar="FILE", help=_TOKEN_HELP)
@click.option("--listen", default="0.0.0.0:7443", show_default=True, help="Where this node will listen.")
@click.option("--advertise", help="Where others dial it; needed when --listen is a wildcard.")
@click.option("--replace", is_flag=True, help="Put the new identity in the place of one that is here (kept beside it).")
@common
def join(
    url: str, pin: str, token_file: str, listen: str, advertise: str | None, replace: bool, state: str | None, as_json: bool
) -> None:
    """Enrol this machine as a node with the authority at URL."""
    place = find_state(state)
    address = _dialled(listen, advertise)
    token = read_secret(token_file, "token")
    work = enrol_here(place, url, pin, token, address, kinds=frozenset({Kind.NODE}), replace=replace)
    identity, path = asyncio.run(work)
    write_node_settings(path / "node.toml", parse_address(listen), address)
    _report(identity, path, "polder node run" + (f" --state {state}" if state else ""), as_json)


@click.command()
@click.argument("url")
@click.option("--pin", required=True, help="The authority's root, sha256:…, as the invitation says.")
@click.option("--token-file", required=True, metavar="FILE", help=_TOKEN_HELP)
@click.option("--replace", is_flag=True, help="Put the new identity in the place of one that is here (kept beside it).")
@common
def enroll(url: str, pin: str, token_file: str, replace: bool, state: str | None, as_json: bool) -> None:
    """Take the identity of a user, site or admin from the authority at URL; the token says which."""
    place = find_state(state)
    token = read_secret(token_file, "token")
    kinds = frozenset(Kind) - {Kind.NODE}
    identity, path = asyncio.run(enrol_here(place, url, pin, token, kinds=kinds, replace=replace))
    steps = {
        Kind.USER: f"polder browse, or polder client profile --for {identity.id.name}",
        Kind.SITE: f"polder protect http://127.0.0.1:8080 --name {identity.id.name} --allow group:NAME",
        Kind.ADMIN: "polder status",
    }
    _report(identity, path, steps[identity.id.kind], as_json)


def _dialled(listen: str, advertise: str | None) -> str:
    try:
        address = parse_address(advertise or listen)
    except ValueError as error:
        raise ConfigError("command line", "advertise" if advertise else "listen", str(error)) from error
    if is_wildcard(address):
        raise ConfigError("command line", "advertise", "say where others dial this node: --advertise 192.0.2.7:7443")
    return address


def write_node_settings(file: Path, listen: str, address: str) -> None:
    """Remember what the command line said, unless the operator has written a file already; he is told if it is wrong."""
    if not file.exists():
        said = {"listen": [listen], "advertise": address if address != listen else None}
        write_atomic(file, dump(said, "This node. Every knob: `polder config schema node`. Drop-ins: conf.d/*.toml").encode())
    load(NodeSettings, file, os.environ)


def _report(identity: IdentityDir, path: Path, next_step: str, as_json: bool) -> None:
    said = read_identity(x509.load_der_x509_certificate(identity.chain[0]))
    facts = {
        "identity": str(identity.id),
        "directory": str(path),
        "not_after": said.not_after,
        "ring_id": said.ring_id.hex() if said.ring_id else None,
        "groups": list(said.groups),
        "hosts": list(said.hosts),
        "members": len(identity.members),
        "addresses": list(said.ips),
    }
    text = f"Enrolled as {identity.id}; the key is in {path} and nowhere else."
    if identity.id.kind is Kind.NODE and not said.ips:
        text += f"\nThe authority saw another address than {identity.address}: browsers without a forwarder reach this node"
        text += f" by name only, so let DNS know {said.hosts[0]}."
    answer(facts, text, next_step, as_json=as_json)
