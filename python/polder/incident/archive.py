"""The file: a gzipped tar with a manifest that names every member's SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
_LARGEST = 64 << 20
_MEMBERS = 1000


class BadArchive(ValueError):
    """Not an export of ours, or changed since it was made."""


def write(path: Path, files: Mapping[str, bytes], facts: Mapping[str, Any], now: float) -> None:
    """Write ``files`` and their manifest (with ``facts``) to ``path``, readable by its owner only. Raises ``FileExistsError``."""
    listed = [{"name": name, "bytes": len(data), "sha256": _sum(data)} for name, data in sorted(files.items())]
    manifest = {"format": FORMAT, "made": now, **facts, "files": listed}
    whole = {MANIFEST: _json(manifest), **files}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(descriptor, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=int(now)) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in (MANIFEST, *sorted(files)):
            member = tarfile.TarInfo(f"polder-incident/{name}")
            member.size, member.mtime, member.mode = len(whole[name]), int(now), 0o600
            tar.addfile(member, io.BytesIO(whole[name]))


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and files. Raises ``BadArchive`` when something is missing, added, changed or too large, and ``OSError``."""
    try:
        files = _members(path)
        manifest = json.loads(files.pop(MANIFEST))
        listed = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, KeyError, TypeError, ValueError) as error:
        raise BadArchive(f"{path} is no export of `polder incident export`: {error}") from error
    if manifest.get("format") != FORMAT:
        raise BadArchive(f"{path} has format {manifest.get('format')}; this Polder reads {FORMAT}")
    changed = [name for name in listed.keys() | files.keys() if name not in files or listed.get(name) != _sum(files[name])]
    if changed:
        raise BadArchive(f"{path} was changed since it was made: {', '.join(sorted(changed)[:5])}")
    return manifest, files


def _members(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    with tarfile.open(path, mode="r|gz") as tar:
        for member in tar:
            total += member.size
            if not member.isreg() or total > _LARGEST or len(files) >= _MEMBERS:
                raise BadArchive(f"{path} holds more than an export does")
            content = tar.extractfile(member)
            files[member.name.removeprefix("polder-incident/")] = content.read() if content else b""
    return files


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
