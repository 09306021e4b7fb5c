"""What an export must not tell is not in it, wherever it stood; the rest stays as it was."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from polder.incident.redact import GONE, Redactor

NODES, PEOPLE = ("n1", "dike-7", "a.b"), ("ann", "eve.x")
KEY = bytes(range(32))
WORDS = st.sampled_from(["tunnel", "the", "wiki", "2026-11-21T06:44:04.772Z", "12:30:01", "503", "1.5", "127.0.0.1:7400", "::1"])
HIDDEN = st.sampled_from(
    [*NODES, *PEOPLE, "198.18.1.7", "198.18.1.7:7443", "2001:db8::7", "[2001:db8::7]:443", "user/zoe", "spiffe://o.test/user/ann"]
)
MARKS = ("n1", "dike-7", "a.b", "ann", "eve", "zoe", "198.18", "2001:db8")
TEXTS = st.lists(WORDS | HIDDEN, max_size=8).map(" ".join)
KEYS = st.sampled_from(["text", "who", "peer", "servlets", "count", "why"])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and mappings, also those whose keys are names."""
    named = st.dictionaries(HIDDEN, inner).map(lambda names: {"servlets": names})
    return st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | named


VALUES = st.recursive(TEXTS | st.integers() | st.booleans() | st.none(), nested, max_leaves=20)


def redactor(reveal: bool = False, key: bytes = KEY) -> Redactor:
    return Redactor(key, NODES, PEOPLE, reveal=reveal)


@given(VALUES)
def test_no_name_and_no_address_survives(value: Any) -> None:
    shown = json.dumps(redactor().value(value))
    assert not any(mark in shown for mark in MARKS), shown


@given(VALUES)
def test_the_shape_and_the_numbers_stay(value: Any) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return sorted(map(str, (shape(each) for each in value.values())))
        if isinstance(value, list):
            return [shape(each) for each in value]
        return "text" if isinstance(value, str) else value

    shown = redactor().value(value)
    if "servlets" not in json.dumps(value):  # names that are one name to us may share a key
        assert shape(shown) == shape(value)
    assert redactor(reveal=True).value(value) == value


@given(TEXTS)
def test_pseudonyms_are_the_same_in_one_export_and_others_in_the_next(text: str) -> None:
    assert redactor().text(text) == redactor().text(text)
    for name in (*NODES, *PEOPLE, "198.18.1.7"):
        assert redactor().text(f"to {name} now") != redactor(key=bytes(32)).text(f"to {name} now")
        assert redactor().text(name) == redactor().text(f"x {name}").removeprefix("x ")


def test_times_numbers_loopback_and_sites_stay() -> None:
    text = "2026-11-21T06:44:04.772Z wiki.test answered 503 at 127.0.0.1:7400 and [::1]:80 after 1.5 s, snapshot 17, 0.1.0"
    assert redactor().text(text) == text
    assert redactor().text("n1.node.overlay.test: dike-7.") != "n1.node.overlay.test: dike-7."


def test_secrets_go_even_when_names_are_kept() -> None:
    for mine in (redactor(), redactor(reveal=True)):
        value = {
            "pairs": [{"key": 4711, "source": "198.18.1.7"}],
            "note": "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----",
            "why": "token polder-token-AbC_1-x was used",
            "database": "postgresql://polder:hunter2@db/polder",
            "password": "hunter2",
        }
        shown = json.dumps(mine.value(value))
        assert not any(secret in shown for secret in ("4711", "MIGH", "AbC_1", "hunter2")), shown
        toml = mine.settings('name = "n9"\napi_key = "hunter2"\n# polder-token-zzz\ndatabase = "postgresql://a:hunter2@db/x"\n')
        assert "hunter2" not in toml and "zzz" not in toml and 'name = "n9"' in toml and GONE in toml


def test_log_lines_stay_json() -> None:
    line = json.dumps({"time": "t", "who": "stranger", "text": "a link went down", "peer": "n1", "nested": {"user": "someone"}})
    shown = json.loads(redactor().line(line))
    assert shown["text"] == "a link went down" and shown["who"].startswith("user-") and shown["peer"].startswith("node-")
    assert shown["nested"]["user"].startswith("user-")
    assert "ann" not in redactor().line("no json: ann at 198.18.1.7")
