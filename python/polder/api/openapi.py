"""The authority's interface as OpenAPI 3.1, made from the same structs that it decodes and encodes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import msgspec

from polder import __version__
from polder.api.messages import Enrolled, EnrolRequest, Members, Nonce, Problem, RenewRequest
from polder.model import Signed


class _Route(NamedTuple):
    method: str
    path: str
    summary: str
    body: type | None
    answer: type | None
    members_only: bool = False


ROUTES = (
    _Route("get", "/v1/root", "The root certificates in PEM; compare their SHA-256 with the pin.", None, None),
    _Route(
        "post",
        "/v1/enrol",
        "Turn a one-use invitation into an identity. Safe to repeat with the same key.",
        EnrolRequest,
        Enrolled,
    ),
    _Route("get", "/v1/nonce", "A nonce to sign for a renewal; good for a minute.", None, Nonce),
    _Route("post", "/v1/renew", "A new certificate for the same key, also after expiry.", RenewRequest, Enrolled),
    _Route("get", "/v1/members", "Some nodes, and the names of protected sites.", None, Members, members_only=True),
    _Route(
        "get", "/v1/relays", "Every node: the relays of the spread plane, signed by the issuer.", None, Signed, members_only=True
    ),
    _Route("get", "/v1/revocations", "The signed revocation list (payload: MessagePack).", None, Signed, members_only=True),
)


@functools.cache
def document() -> bytes:
    """The document as JSON."""
    structs = [route.body for route in ROUTES if route.body] + [route.answer for route in ROUTES if route.answer] + [Problem]
    _, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    described = {
        "openapi": "3.1.0",
        "info": {
            "title": "Polder authority",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"member": {"type": "mutualTLS", "description": "A certificate of this overlay."}},
        },
    }
    return msgspec.json.encode(described)


def _operation(route: _Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.path.rpartition("/")[2],
        "summary": route.summary,
        "responses": {
            "200": {"description": "Done.", "content": _content(route.answer)},
            "default": {"description": "Refused.", "content": {"application/problem+json": {"schema": _ref(Problem)}}},
        },
        "security": [{"member": []}] if route.members_only else [],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
    return operation


def _content(kind: type | None) -> dict[str, Any]:
    if kind is None:
        return {"application/x-pem-file": {"schema": {"type": "string"}}}
    return {"application/json": {"schema": _ref(kind)}}


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
