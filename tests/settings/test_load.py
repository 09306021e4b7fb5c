"""Loading: file, drop-ins, environment, command line, in this order; errors say where and what instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.settings import SECTIONS, ConfigError, NodeSettings, SiteSettings, json_schema, load


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_sources_win_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path / "node.toml", "workers = 2\nsuccessors = 5\n[limits]\nconnections = 100\nmax_hops = 9\n")
    write(tmp_path / "conf.d/20-b.toml", "workers = 4\n[limits]\nconnections = 200\n")
    write(tmp_path / "conf.d/10-a.toml", "workers = 3\nbeacons = 5\n")
    env = {"POLDER_NODE__LIMITS__CONNECTIONS": "300", "POLDER_SITE__NAME": "not ours", "HOME": "/"}
    settings = load(NodeSettings, file, env, {"beacons": 7})
    assert (settings.workers, settings.successors, settings.beacons) == (4, 5, 7)
    assert (settings.limits.connections, settings.limits.max_hops) == (300, 9)


def test_an_absent_file_means_defaults_and_drop_ins(tmp_path: Path) -> None:
    assert load(NodeSettings, tmp_path / "node.toml") == NodeSettings()
    write(tmp_path / "conf.d/a.toml", "workers = 3\n")
    assert load(NodeSettings, tmp_path / "node.toml").workers == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listem = []\n", "listem: unknown key; did you mean 'listen'?"),
        ("[limits]\nconections = 3\n", "limits.conections: unknown key; did you mean 'connections'?"),
        ("[limits]\nqqqqqq = 3\n", "limits.qqqqqq: unknown key; known are "),
        ("workers = 0\n", "workers: input should be greater than or equal to 1 (got 0)"),
        ('listen = ["example.org:1"]\n', "listen.0: 'example.org:1' is not an address"),
        ('router = "pastry"\n', "router: input should be 'chord' or 'onehop'"),
        ('advertise = "0.0.0.0:1"\n', "others cannot dial a wildcard"),
        ("listen = [\n", "not TOML"),
        ('name = "N1"\n', "'N1' is not a name"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path / "node.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(NodeSettings, file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


def test_errors_name_the_drop_in_or_variable_that_holds_the_value(tmp_path: Path) -> None:
    file = write(tmp_path / "node.toml", "workers = 1\n")
    drop_in = write(tmp_path / "conf.d/a.toml", "workers = 0\n")
    with pytest.raises(ConfigError, match="workers") as caught:
        load(NodeSettings, file)
    assert caught.value.source == str(drop_in)
    with pytest.raises(ConfigError) as caught:
        load(NodeSettings, None, {"POLDER_NODE__WORKERS": "many"})
    assert caught.value.source == "POLDER_NODE__WORKERS"
    with pytest.raises(ConfigError, match="must be given"):
        load(SiteSettings, None, {"POLDER_SITE__NAME": "wiki"})


def test_environment_forms() -> None:
    env = {
        "POLDER_SITE__NAME": "wiki",
        "POLDER_SITE__ORIGIN": "http://127.0.0.1:8080",
        "POLDER_SITE__PORTS": "80,443",
        "POLDER_SITE__ALLOW": '["group:staff", "user:ann"]',
        "POLDER_SITE__ORIGINS__443": "127.0.0.1:8443",
        "POLDER_SITE__ROTATION": "90s",
        "POLDER_SITE__LIMITS": "{ connections = 64 }",
    }
    settings = load(SiteSettings, None, env)
    assert settings.port_map() == ((80, "127.0.0.1:8080"), (443, "127.0.0.1:8443"))
    assert settings.allow == ("group:staff", "user:ann")
    assert (settings.rotation, settings.limits.connections) == (90.0, 64)
    assert load(NodeSettings, None, {"POLDER_NODE__LISTEN": "[::1]:7443"}).listen == ("[::1]:7443",)


@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=12), st.text(max_size=12), max_size=4))
def test_any_environment_is_settings_or_a_config_error(variables: dict[str, str]) -> None:
    env = {f"POLDER_NODE__{name.upper()}": value for name, value in variables.items()}
    try:
        load(NodeSettings, None, env)
    except ConfigError as error:
        assert error.source in env or "node" in error.source


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_the_schema_explains_every_knob(section: str) -> None:
    schema = json.loads(json_schema(section))

    def knobs(at: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
        return list(at.get("properties", {}).items())  # type: ignore[attr-defined]

    described = knobs(schema) + [knob for part in schema.get("$defs", {}).values() for knob in knobs(part)]
    assert described
    for name, knob in described:
        assert len(str(knob.get("description", ""))) > 20, name
    assert schema["additionalProperties"] is False
