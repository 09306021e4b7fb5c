"""``polder doctor``: find what is wrong on this machine, say what would mend it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from polder.cli.answer import answer, common, find_state
from polder.doctor.checks import examine


@click.command()
@common
def doctor(state: str | None, as_json: bool) -> int:
    """Check kernel, clock, certificates, revocation list, root key, sandbox, ports, metrics and origins, in both address families.

    Every finding says what to do about it. Exit status 3 when something is wrong.
    """
    findings = asyncio.run(examine(find_state(state)))
    bad = [finding for finding in findings if finding.good is False]
    signs = {True: "good   ", False: "WRONG  ", None: "unknown"}
    lines = [f"{signs[each.good]} {each.check}: {each.what}{f' → {each.cure}' if each.cure else ''}" for each in findings]
    facts = {"findings": [asdict(each) for each in findings], "wrong": len(bad)}
    answer(facts, "\n".join(lines), bad[0].cure if bad else "polder status", as_json=as_json)
    return 3 if bad else 0
