"""``polder status`` names the missing step of whoever stands here."""

from __future__ import annotations

from typing import Any

import pytest

from polder.dashboard.steps import line, next_step

NODE = {
    "part": "node", "running": True, "name": "n1", "joined": True, "members": 5, "sites": {"wiki": {}}, "revocation_age_s": 4,
    "revocation_epoch": 2, "certificate_valid_for_s": 7200,
}  # fmt: skip
SITE = {
    "part": "site/wiki", "running": True, "serving": 2, "transport": "dialout", "exposed": 2, "pool": 8, "rotation_in_s": 90,
    "certificate_valid_for_s": 7200,
}  # fmt: skip
USER = {
    "part": "user/ann", "running": True, "proxy": "127.0.0.1:7480", "pac": "http://127.0.0.1:7480/proxy.pac", "access_points": ["n1"],
    "sites": ["wiki.test"],
}  # fmt: skip
AUTHORITY = {"part": "authority", "running": True, "trust_domain": "o.test", "url": "https://a:1"}


def stopped(part: str) -> dict[str, Any]:
    return {"part": part, "running": False, "why": "nothing answers"}


@pytest.mark.parametrize(
    ("parts", "admin", "root", "step"),
    [
        ([], False, False, "polder init"),
        ([], True, False, "polder watch"),
        ([stopped("node"), stopped("authority")], False, False, "polder authority serve"),
        ([AUTHORITY, stopped("node")], False, True, "polder node run"),
        ([stopped("site/wiki")], False, False, "polder site run wiki"),
        ([stopped("user/ann")], False, False, "polder connect --user ann"),
        ([{"part": "site/wiki", "running": None, "why": "`polder protect URL --name wiki`"}], False, False, "polder protect"),
        ([AUTHORITY, NODE | {"members": 1}], False, True, "polder invite node"),
        ([AUTHORITY, NODE | {"sites": {}}], False, True, "polder invite site"),
        ([SITE | {"serving": 0}], False, False, "polder doctor"),
        ([AUTHORITY, NODE], False, True, "root key off this machine"),
        ([AUTHORITY, NODE], False, False, "polder invite admin"),
        ([USER], False, False, "polder browse"),
        ([USER | {"sites": []}], False, False, "wait for the operator"),
        ([AUTHORITY, NODE, SITE, USER], True, False, "polder watch"),
    ],
)
def test_the_missing_step(parts: list[dict[str, Any]], admin: bool, root: bool, step: str) -> None:
    assert step in next_step(parts, admin=admin, root_here=root)


def test_each_part_in_one_line() -> None:
    assert line("node", NODE) == "n1 in a ring of 5, 1 site, revocation list 2, 4 s old, certificate 2 h"
    assert "is joining" in line("node", NODE | {"joined": False, "revocation_age_s": -1})
    assert "2 servlets by dialout, 2 of 8 nodes ever knew the way in, next rotation in 1 min 30 s" in line("site/wiki", SITE)
    assert line("user/ann", USER) == "proxy 127.0.0.1:7480, 1 access point, 1 site"
    assert line("authority", AUTHORITY) == "of o.test, serves https://a:1"
