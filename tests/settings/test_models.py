"""The models: defaults agree with the data plane's, and what cannot work is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from polder.model import Kind
from polder.settings import AuthoritySettings, ClientSettings, Limits, NodeSettings, SiteSettings
from polder.snapshot.schema import Limits as DataPlaneLimits


def test_limits_are_the_data_planes() -> None:
    assert DataPlaneLimits(**Limits().model_dump()) == DataPlaneLimits()


def test_the_data_planes_own_defaults_are_the_same() -> None:
    source = (Path(__file__).parents[2] / "crates/types/src/limits.rs").read_text()
    told = dict(re.findall(r"^ {12}(\w+): (.+),$", source, re.MULTILINE))

    def number(text: str) -> int:
        terms = [int(term) for term in re.split(r" (?:\*|<<) ", text)]
        return terms[0] << terms[1] if "<<" in text else math.prod(terms)

    assert {name: number(text) for name, text in told.items()} == msgspec.structs.asdict(DataPlaneLimits())


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        NodeSettings().workers = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("listen", "advertise", "dialled"),
    [
        (("0.0.0.0:7443",), None, None),
        (("0.0.0.0:7443", "192.0.2.1:7443"), None, "192.0.2.1:7443"),
        (("[::]:7443",), "[2001:db8::1]:7443", "[2001:db8::1]:7443"),
    ],
)
def test_where_a_node_is_dialled(listen: tuple[str, ...], advertise: str | None, dialled: str | None) -> None:
    assert NodeSettings(listen=listen, advertise=advertise).advertised == dialled


def site(**more: Any) -> SiteSettings:
    return SiteSettings(**({"name": "wiki", "origin": "http://127.0.0.1:8080"} | more))


@pytest.mark.parametrize(
    ("origin", "ports"),
    [
        ("http://127.0.0.1:8080", ((80, "127.0.0.1:8080"),)),
        ("https://[::1]", ((443, "[::1]:443"),)),
        ("localhost:9000", ((80, "127.0.0.1:9000"), (443, "127.0.0.1:9000"))),
    ],
)
def test_ports_follow_from_the_origin(origin: str, ports: tuple[tuple[int, str], ...]) -> None:
    assert site(origin=origin).port_map() == ports


def test_asked_ports_may_be_chosen() -> None:
    assert site(ports=(8000,), origins={443: "127.0.0.1:1"}).port_map() == ((8000, "127.0.0.1:8080"),)
    assert dict(site(origins={443: "127.0.0.1:1"}).port_map()) == {80: "127.0.0.1:8080", 443: "127.0.0.1:1"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": "http://wiki.internal:80"},
        {"origin": "http://127.0.0.1/path"},
        {"origin": "ftp://127.0.0.1"},
        {"origin": "http://ann:pw@127.0.0.1"},
        {"origin": "http://127.0.0.1:0x50"},
        {"ports": (0,)},
        {"origins": {70_000: "127.0.0.1:1"}},
        {"allow": ("everybody",)},
        {"allow": ("anyone:ann",)},
        {"transport": "gre"},
        {"mode": "tunnel"},
        {"hosts": ("127.0.0.1",)},
        {"rotation": "0s"},
        {"servlets": 2, "servlets_among": ("n1",)},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        site(**wrong)


def test_a_forwarder_listens_on_loopback_only() -> None:
    assert ClientSettings(listen="[::1]:1").listen == "[::1]:1"
    with pytest.raises(ValidationError, match="not a loopback address"):
        ClientSettings(listen="192.0.2.1:7480")


def test_the_authoritys_lives_and_url() -> None:
    settings = AuthoritySettings(trust_domain="o.test", url="https://a.example:7400/", user_life="7d")  # type: ignore[arg-type]
    assert (settings.url, settings.life(Kind.USER), settings.life(Kind.NODE)) == ("https://a.example:7400", 604_800.0, 86_400.0)
    for wrong in ({"url": "http://a"}, {"url": "https://a/b"}, {"trust_domain": "O.test"}, {"trust_domain": "a/b"}):
        with pytest.raises(ValidationError):
            AuthoritySettings(**({"trust_domain": "o.test", "url": "https://a"} | wrong))
