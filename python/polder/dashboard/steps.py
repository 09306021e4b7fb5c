"""What ``polder status`` says of each part in one line, and which step is missing. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polder.dashboard import words

Facts = Mapping[str, Any]


def line(part: str, facts: Facts) -> str:
    """One part that answers, in one line."""
    kind = part.partition("/")[0]
    said = {"node": _node, "site": _site, "user": _user, "authority": _authority}[kind](facts)
    left = facts.get("certificate_valid_for_s")
    return ", ".join([*said, *([f"certificate {words.duration(left)}"] if left is not None else [])])


def _node(facts: Facts) -> list[str]:
    place = f"{facts['name']} in a ring of {facts['members']}" if facts["joined"] else f"{facts['name']} is joining"
    age = int(facts.get("revocation_age_s", -1))
    heard = "no revocation list yet" if age < 0 else f"revocation list {facts['revocation_epoch']}, {words.duration(age)} old"
    return [place, words.plural(len(facts["sites"]), "site"), heard]


def _site(facts: Facts) -> list[str]:
    rotation = facts.get("rotation_in_s")
    turn = [] if rotation is None else [f"next rotation in {words.duration(rotation)}"]
    known = f"{facts['exposed']} of {facts['pool']} nodes ever knew the way in"
    return [f"{words.plural(facts['serving'], 'servlet')} by {facts['transport']}", known, *turn]


def _user(facts: Facts) -> list[str]:
    points = words.plural(len(facts["access_points"]), "access point")
    return [f"proxy {facts['proxy']}", points, words.plural(len(facts["sites"]), "site")]


def _authority(facts: Facts) -> list[str]:
    return [f"of {facts['trust_domain']}", f"serves {facts['url']}"]


def next_step(parts: Sequence[Facts], *, admin: bool, root_here: bool) -> str:
    """The missing step: ``parts`` have ``part``, ``running`` and, if they answer, their status."""
    if not parts and not admin:
        return "found an overlay with `polder init --trust-domain NAME`, or enrol here with `polder join` or `polder enroll`"
    stopped = [part["part"] for part in parts if part["running"] is False]
    starts = {"node": "start the node: `polder node run`", "authority": "start the authority: `polder authority serve`"}
    for part in sorted(stopped, key=lambda name: (name != "authority", name != "node")):
        kind, _, name = part.partition("/")
        if kind == "site":
            return f"start the site's agent: `polder site run {name}`"
        return starts.get(kind, f"start the forwarder: `polder connect --user {name}`")
    unprotected = next((part for part in parts if part["running"] is None), None)
    if unprotected is not None:
        return str(unprotected["why"])
    kinds = {part["part"].partition("/")[0]: part for part in parts}
    node, site, user = kinds.get("node"), kinds.get("site"), kinds.get("user")
    if node and node.get("members", 0) < 3:
        return "a ring of three or more survives a death: `polder invite node`, then `polder join` on another machine"
    if node and not node.get("sites"):
        return "protect a site: `polder invite site NAME --host HOST`, then `polder protect` on the site's machine"
    if site and not site["serving"]:
        return "no servlet serves yet: `polder doctor` looks for the reason"
    if root_here:
        return "take the root key off this machine: `polder authority offline --copy-to DIR --remove`, DIR on a medium that you lock away"
    if node and not admin:
        return "enrol yourself as an operator, to see and drill all nodes: `polder invite admin NAME`, then `polder enroll`"
    if user and not node and not site:
        return (
            f"set {user['pac']} in a browser, or `polder browse SITE`"
            if user["sites"]
            else "wait for the operator to register a site"
        )
    return "nothing is missing: `polder watch` shows what goes on"
