"""References made from the code: what is printed here cannot differ from what runs."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from polder.api.openapi import document
from polder.clearing.faces import routes_for_description
from polder.clearing.messages import CreditRequest, Granted
from polder.clearing.serving import Route
from polder.clearing.serving import openapi as clearing_document
from polder.cli.main import COMMANDS, polder
from polder.model import overlay_messages, records, ring_messages, spread_messages
from polder.settings.load import SECTIONS, json_schema
from polder.shell.metrics import known, tells_role

ROOT = Path(__file__).parents[2]
Fragment = Callable[[], str]


def commands() -> str:
    """Help of every command and subcommand."""
    parts: list[str] = []
    root = click.Context(polder, info_name="polder")
    for name in COMMANDS:
        command = polder.get_command(root, name)
        if command is not None:
            _describe(command, click.Context(command, info_name=name, parent=root), parts, 2)
    return "\n".join(parts)


def _describe(command: click.Command, context: click.Context, parts: list[str], level: int) -> None:
    parts.append(f"{'#' * level} {context.command_path}\n\n```\n{command.get_help(context)}\n```\n")
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            _describe(child, click.Context(child, info_name=name, parent=context), parts, 3)


def configuration() -> str:
    """Every knob with type, default and reason."""
    parts: list[str] = []
    for section in SECTIONS:
        schema = json.loads(json_schema(section))
        parts.append(f"## {section}.toml\n\n{schema.get('description', '')}\n\n[JSON Schema]({section}.schema.json)\n")
        parts.append(_knobs(schema["properties"]))
        for name, knob in schema["properties"].items():
            parts += _tables(section, name, knob, schema.get("$defs", {}))
    return "\n".join(parts)


def _tables(section: str, name: str, knob: dict[str, Any], known_tables: dict[str, Any]) -> list[str]:
    """The table ``[name]`` and those inside it; ``[name.NAME]`` where names are the operator's own."""
    choices = [knob, *knob.get("anyOf", []), *knob.get("allOf", [])]
    own = knob.get("additionalProperties")
    if isinstance(own, dict):
        name, choices = f"{name}.NAME", [own]
    parts: list[str] = []
    for choice in choices:
        inner = known_tables.get(choice.get("$ref", "").rpartition("/")[2], {})
        if "properties" in inner:
            parts.append(f"### {section}.toml, table `[{name}]`\n\n{_knobs(inner['properties'])}")
            for key, below in inner["properties"].items():
                parts += _tables(section, f"{name}.{key}", below, known_tables)
    return parts


def _knobs(properties: dict[str, Any]) -> str:
    rows = ["| knob | default | what, why, what it costs |", "|---|---|---|"]
    for name, knob in properties.items():
        default = "needed"
        if "default" in knob:
            default = f"`{json.dumps(knob['default'])}`"
        elif "$ref" in knob:
            default = "see below"
        elif "items" in knob or "additionalProperties" in knob:
            default = "empty"
        rows.append(f"| `{name}` | {_cell(default)} | {_cell(knob.get('description', ''))} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


# Messages


def methods() -> str:
    """Every control call with its body and answer."""
    parts = ["| method | body | answer | what |", "|---|---|---|---|"]
    for name, (body, answer) in sorted(overlay_messages.METHODS.items()):
        parts.append(f"| `{name}` | {_link(body)} | {_link(answer)} | {_first_line(body)} |")
    ring = "[ring messages](#messages-of-the-ring)"
    parts.append(f"| `ring` | {ring} | {ring} | One question or answer of the ring; which, its tag says. |")
    shown = dict.fromkeys(kind for pair in overlay_messages.METHODS.values() for kind in pair)
    return "\n".join(parts) + "\n\n" + _structs(shown)


def ring() -> str:
    """Every message of the ring."""
    return _structs(_defined_in(ring_messages))


def signed() -> str:
    """Signed statements, and what else the calls carry."""
    carried = [*_defined_in(records), overlay_messages.Withdrawal, overlay_messages.Delivery, overlay_messages.Held]
    spread = spread_messages
    inside = [spread.Terms, spread.Redundancy, spread.Ticket, spread.TicketRelay, spread.RelayList]
    return _structs([*carried, overlay_messages.EpochSecret, *inside])


def _defined_in(module: Any) -> list[type[msgspec.Struct]]:
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    own = [kind for kind in kinds if issubclass(kind, msgspec.Struct) and not kind.__name__.startswith("_")]
    return [kind for kind in sorted(own, key=lambda kind: inspect.getsourcelines(kind)[1]) if kind is not records.Frozen]


def _structs(kinds: Iterable[type[msgspec.Struct]]) -> str:
    return "\n".join(_struct(kind) for kind in kinds)


def _struct(kind: type[msgspec.Struct]) -> str:
    tag = kind.__struct_config__.tag
    named = f", tag `{tag}`" if tag else ""
    rows = [f"### {kind.__name__}{named}\n", _prose(kind), ""]
    fields = msgspec.structs.fields(kind)
    if fields:
        rows += ["| field | type | default |", "|---|---|---|"]
    for field in fields:
        default = "" if field.default is msgspec.NODEFAULT else f"`{_plain(field.default)}`"
        rows.append(f"| `{field.encode_name}` | {_type(field.type)} | {_cell(default)} |")
    return "\n".join(rows) + "\n"


def _plain(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value))


def _type(kind: Any) -> str:
    """A type in words; lengths where they are bounded."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _link(kind)
    arguments = get_args(kind)
    if hasattr(kind, "__metadata__"):
        meta = next((one for one in kind.__metadata__ if isinstance(one, msgspec.Meta)), None)
        most = f", at most {meta.max_length}" if meta and meta.max_length else ""
        exact = f", {meta.max_length} long" if meta and meta.max_length and meta.min_length == meta.max_length else most
        return f"{_type(arguments[0])}{exact}"
    name = getattr(kind, "__name__", str(kind))
    if name in ("tuple", "dict") and arguments:
        inner = [_type(one) for one in arguments if one is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in arguments else f"{'map' if name == 'dict' else 'tuple'} of {', '.join(inner)}"
    if type(kind).__name__ == "UnionType" or name in ("Union", "Optional"):
        return " or ".join("nil" if one is type(None) else _type(one) for one in arguments)
    return {"str": "text", "bytes": "bytes", "int": "integer", "float": "number", "bool": "true or false"}.get(name, name)


def _link(kind: type[msgspec.Struct]) -> str:
    tag = kind.__struct_config__.tag
    words = f"{kind.__name__} tag {tag}" if tag else kind.__name__
    return f"[{kind.__name__}](#{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')})"


def _prose(kind: type) -> str:
    return re.sub(r"``([^`]*)``", r"`\1`", inspect.getdoc(kind) or "").replace("|", "\\|")


def _first_line(kind: type) -> str:
    return _cell(_prose(kind).partition("\n")[0])


def authority() -> str:
    """The authority's HTTP interface."""
    return _interface(document())


def clearing() -> str:
    """The clearing house's HTTP interface, and the portal's one operation."""
    portal = Route(
        "post", "/v1/credits", "Portal: a credit for your KeyNote key. Safe to repeat.", CreditRequest, Granted, {}, _nothing
    )
    return _interface(clearing_document("clearing", (*routes_for_description(), portal)))


def _nothing(_who: str, _body: Any, _query: Any) -> None:
    """The routes of a description are not called."""


def _interface(document: bytes) -> str:
    described = json.loads(document)
    rows = ["| request | what | who | body → answer |", "|---|---|---|---|"]
    for path, verbs in described["paths"].items():
        for verb, operation in verbs.items():
            who = "members, by certificate" if operation.get("security", described.get("security")) else "anybody"
            asked = _schema_name(operation.get("requestBody", {}))
            told = _schema_name(operation["responses"]["200"])
            rows.append(f"| `{verb.upper()} {path}` | {_cell(operation['summary'])} | {who} | {asked} → {told} |")
    parts = ["\n".join(rows), ""]
    for name, schema in described["components"]["schemas"].items():
        fields = ", ".join(f"`{field}`" for field in schema.get("properties", {}))
        parts.append(f"- **{name}**: {_cell(schema.get('description', ''))} Fields: {fields}.")
    return "\n".join(parts) + "\n"


def _schema_name(holder: dict[str, Any]) -> str:
    for kind, content in holder.get("content", {}).items():
        name = content["schema"].get("$ref", kind).rpartition("/")[2]
        return f"`{name}`"
    return "–"


def metrics() -> str:
    """Every metric family."""
    rows = ["| metric | kind | label | meaning |", "|---|---|---|---|"]
    for name, family in sorted(known().items()):
        shown = f"polder_{name}" + ("_total" if family.kind == "counter" else "")
        secret = " (Left out at nodes for readers other than the owner: it tells a role.)" if tells_role(name) else ""
        label = f"`{family.label}`" if family.label else ""
        rows.append(f"| `{shown}` | {family.kind} | {label} | {_cell(family.help)}{secret} |")
    return "\n".join(rows) + "\n"


def errors() -> str:
    """Every error that a user can be told."""
    source = (ROOT / "crates" / "wire" / "src" / "refusal.rs").read_text()
    tokens = dict(re.findall(r'ProxyError::(\w+) => "(\w+)"', source))
    meaning = {name: text for _, text, name in re.findall(r"/// `(\w+)`[:.] ?([^\n]*)\n    (\w+),", source)}
    status: dict[str, str] = {}
    for names, code in re.findall(r"((?:ProxyError::\w+[ |]*)+) => (\d{3})", source):
        status |= dict.fromkeys(re.findall(r"ProxyError::(\w+)", names), code)
    rows = ["| `error` | status | meaning |", "|---|---|---|"]
    rows += [f"| `{token}` | {status[name]} | {_cell(meaning.get(name, ''))} |" for name, token in tokens.items()]
    return "\n".join(rows) + "\n"


FRAGMENTS: dict[str, Fragment] = {
    "commands": commands,
    "configuration": configuration,
    "methods": methods,
    "ring": ring,
    "signed": signed,
    "authority": authority,
    "clearing": clearing,
    "metrics": metrics,
    "errors": errors,
}
