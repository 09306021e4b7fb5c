"""Reads one configuration: the file, its drop-ins ``conf.d/*.toml`` in order of name, then the environment; the last one wins."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from polder.settings.authority import AuthoritySettings
from polder.settings.base import ConfigError, Settings
from polder.settings.client import ClientSettings
from polder.settings.lines import line_of, line_of_syntax
from polder.settings.money import ClearingSettings, IspSettings, ProviderSettings
from polder.settings.node import NodeSettings
from polder.settings.rsvp import PdpSettings, RsvpSettings
from polder.settings.site import SiteSettings

S = TypeVar("S", bound=Settings)

SECTIONS: dict[str, type[Settings]] = {
    "node": NodeSettings,
    "site": SiteSettings,
    "client": ClientSettings,
    "authority": AuthoritySettings,
    "rsvp": RsvpSettings,
    "pdp": PdpSettings,
    "clearing": ClearingSettings,
    "isp": IspSettings,
    "provider": ProviderSettings,
}
"""Configuration file and environment section → model."""

Sources = dict[tuple[str, ...], str]


def load(
    model: type[S], path: Path | None = None, env: Mapping[str, str] | None = None, given: Mapping[str, Any] | None = None
) -> S:
    """Return the settings from ``path`` (may be absent: defaults), its drop-ins, ``env`` and ``given`` (command line).

    Raises ``ConfigError`` naming the file or variable, the key and, for an unknown key, the likely one.
    """
    section = next(name for name, known in SECTIONS.items() if known is model)
    merged: dict[str, Any] = {}
    sources: Sources = {}
    for file in _files(path):
        _merge(merged, _read(file), sources, str(file))
    for variable, keys, value in _variables(env or {}, section):
        _merge(merged, _nest(keys, value), sources, variable)
    _merge(merged, dict(given or {}), sources, "command line")
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, model, sources, str(path or f"{section} settings")) from error


def json_schema(section: str) -> str:
    """The JSON Schema of one configuration file, indented; ``section`` is a key of ``SECTIONS``."""
    schema = SECTIONS[section].model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"{section}.toml"
    return json.dumps(schema, indent=2)


def _files(path: Path | None) -> Iterable[Path]:
    if path is None:
        return []
    drop_ins = sorted((path.parent / "conf.d").glob("*.toml"))
    return [path, *drop_ins] if path.exists() else drop_ins


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(file), "", f"not TOML: {error}", line_of_syntax(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), "", f"cannot be read: {error}") from error


def _variables(env: Mapping[str, str], section: str) -> Iterable[tuple[str, list[str], Any]]:
    prefix = f"POLDER_{section.upper()}__"
    for variable in sorted(env):
        if variable.startswith(prefix):
            yield variable, variable.removeprefix(prefix).lower().split("__"), _value(variable, env[variable])


def _value(variable: str, text: str) -> Any:
    """Text as it stands (the model converts it), except for TOML arrays and tables."""
    if not text.startswith(("[", "{")) or text.startswith("[::"):
        return text
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        if text.startswith("["):  # an IPv6 address in brackets
            return text
        raise ConfigError(variable, "", "not a TOML value") from None


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(into: dict[str, Any], new: Mapping[str, Any], sources: Sources, source: str, at: tuple[str, ...] = ()) -> None:
    for key, value in new.items():
        place = (*at, str(key))
        sources[place] = source
        if isinstance(value, Mapping):
            below = into.get(key)
            into[key] = below if isinstance(below, dict) else {}
            _merge(into[key], value, sources, source, place)
        else:
            into[key] = value


def _explain(error: ValidationError, model: type[BaseModel], sources: Sources, default: str) -> ConfigError:
    first = error.errors(include_url=False, include_context=False)[0]
    where = tuple(str(part) for part in first["loc"])
    key = ".".join(where)
    source = next((sources[where[:n]] for n in range(len(where), 0, -1) if where[:n] in sources), default)
    line = line_of(Path(source), where)
    if first["type"] == "extra_forbidden":
        return ConfigError(source, key, _suggest(where, model), line)
    if first["type"] == "missing":
        return ConfigError(source, key, "must be given")
    why = first["msg"].removeprefix("Value error, ")
    shown = (
        f" (got {first['input']!r})" if isinstance(first["input"], str | int | float) and str(first["input"]) not in why else ""
    )
    return ConfigError(source, key, why[0].lower() + why[1:] + shown if not why.startswith("'") else why, line)


def _suggest(where: tuple[str, ...], model: type[BaseModel]) -> str:
    known: list[str] = []
    scope: type[BaseModel] | None = model
    for part in where[:-1]:
        inner = scope.model_fields[part].annotation if scope and part in scope.model_fields else None
        scope = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    if scope is not None:
        known = list(scope.model_fields)
    close = difflib.get_close_matches(where[-1], known, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key; known are {', '.join(sorted(known))}"
