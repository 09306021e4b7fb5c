"""The boundary as it is written down is the boundary as it is."""

import ast
from pathlib import Path

import polder
from polder import _native  # noqa: TID251 - compared here, not used

STUB = ast.parse((Path(polder.__file__).parent / "_native.pyi").read_text())


def public(thing: object) -> set[str]:
    """Names without underscore."""
    return {name for name in dir(thing) if not name.startswith("_")}


def test_the_stub_names_what_the_module_has() -> None:
    functions = {node.name for node in STUB.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
    assert functions | set(classes) | {"SCHEMA", "PROFILE"} == public(_native)
    for name, node in classes.items():
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} - {"__init__"}
        assert methods == public(getattr(_native, name)), name


def test_the_stub_names_the_arguments_that_the_module_takes() -> None:
    for node in ast.walk(STUB):
        if not isinstance(node, ast.ClassDef):
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                real = getattr(getattr(_native, node.name), method.name).__text_signature__
                wanted = [argument.arg for argument in method.args.args]
                said = [word.strip(" ()$/").split("=")[0] for word in real.split(",")]
                assert [word for word in said if word] == wanted, f"{node.name}.{method.name}: {real}"


def test_both_halves_of_the_schema_are_of_one_version() -> None:
    from polder.snapshot.schema import SCHEMA

    assert _native.SCHEMA == SCHEMA
