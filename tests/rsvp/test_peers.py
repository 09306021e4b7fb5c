"""What other implementations read in our messages: tshark without a warning, scapy field by field.

Both come from Debian (``tshark``, ``python3-scapy``: ``scripts/system-packages``); scapy runs in the system's own interpreter.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from polder.rsvp import messages as m
from polder.rsvp.objects import Hop, SenderTspec, TimeValues
from polder.rsvp.reading import value_of
from polder.rsvp.wire import Raw, Type
from tests.rsvp.examples import one_of_each, write_capture

TSHARK = shutil.which("tshark")
_NOT_KNOWN_TO_TSHARK = {name: {"Unknown session type"} for name in ("challenge", "response")}
"""tshark 4.0 does not know the two messages of RFC 3097, and complains that a message has no SESSION; these have none."""
SYSTEM_PYTHON = "/usr/bin/python3"
_SCAPY = """
import json, sys
from scapy.all import rdpcap
from scapy.contrib.rsvp import RSVP, RSVP_Object
found = []
for packet in rdpcap(sys.argv[1]):
    layer, objects = packet[RSVP], []
    head = {name: getattr(layer, name) for name in ("Version", "Flags", "Class", "TTL", "chksum", "Length")}
    layer = layer.payload
    while isinstance(layer, RSVP_Object):
        inner = layer.payload
        fields = {name: getattr(inner, name) for name in inner.fields}
        fields = {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}
        objects.append([layer.Length, layer.Class, layer.C_Type, type(inner).__name__, fields])
        layer = inner.payload
    found.append([head, objects])
print(json.dumps(found))
"""


def _has_scapy() -> bool:
    if not Path(SYSTEM_PYTHON).exists():
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", "import scapy.contrib.rsvp"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "own.pcap"
    write_capture(path, [message.pack() for message in one_of_each().values()])
    return path


@pytest.mark.skipif(TSHARK is None, reason="the package tshark is not installed")
def test_tshark_reads_every_message_without_a_warning(capture: Path, tmp_path: Path) -> None:
    assert TSHARK is not None
    command = [TSHARK, "-r", str(capture), "-T", "json", "--no-duplicate-keys", "-o", "ip.check_checksum:TRUE"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(tmp_path)})
    packets = json.loads(done.stdout)
    assert len(packets) == len(one_of_each())
    for (name, message), packet in zip(one_of_each().items(), packets, strict=True):
        layers = packet["_source"]["layers"]
        text = json.dumps(layers)
        warnings = {value for key, value in _walk(layers) if key == "_ws.expert.message"}
        assert warnings <= _NOT_KNOWN_TO_TSHARK.get(name, set()), (name, warnings)
        assert "_ws.malformed" not in text, (name, text)
        assert "Unknown object" not in text, name
        if not isinstance(message.body, m.Bundled):
            rsvp = layers["rsvp"]
            kind = next(value for key, value in _walk(rsvp) if key == "rsvp.msg")
            assert int(kind) == message.datagram().header.type, name


def test_tshark_reads_the_numbers_that_we_wrote(capture: Path, tmp_path: Path) -> None:
    if TSHARK is None:
        pytest.skip("the package tshark is not installed")
    names = ("rsvp.session.ip", "rsvp.session.port", "rsvp.sender.ip", "rsvp.sender.port", "rsvp.hop.neighbor_address_ipv4")
    fields = [word for name in names for word in ("-e", name)]
    command = [TSHARK, "-r", str(capture), "-Y", "rsvp.msg == 1", "-T", "fields", *fields, "-c", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(tmp_path)})
    first = done.stdout.splitlines()[0].split("\t")
    path = one_of_each()["path"].body
    assert isinstance(path, m.Path)
    session, sender = path.session, path.sender
    wanted = [str(session.destination), str(session.port), str(sender.address), str(sender.port), str(path.hop.address)]
    assert first == wanted


@pytest.mark.skipif(not _has_scapy(), reason="the package python3-scapy is not installed")
def test_scapy_agrees_field_by_field(capture: Path) -> None:
    done = subprocess.run([SYSTEM_PYTHON, "-c", _SCAPY, str(capture)], capture_output=True, text=True, check=True)
    found: list[tuple[dict[str, int], list[Any]]] = json.loads(done.stdout)
    for (name, message), (head, objects) in zip(one_of_each().items(), found, strict=True):
        datagram, data = message.datagram(), message.pack()
        told = (head["Version"], head["Flags"], head["Class"], head["TTL"], head["chksum"], head["Length"])
        header = datagram.header
        assert told == (1, header.flags, header.type, header.ttl, int.from_bytes(data[2:4], "big"), len(data)), name
        if header.type == Type.BUNDLE:
            continue  # scapy takes the messages inside for objects
        assert len(objects) == len(datagram.objects), name
        for raw, (length, class_num, ctype, kind, fields) in zip(datagram.objects, objects, strict=True):
            assert (length, class_num, ctype) == (len(raw), raw.class_num, raw.ctype), name
            assert _agrees(raw, kind, fields), (name, raw, fields)


def _agrees(raw: Raw, kind: str, fields: dict[str, Any]) -> bool:
    """Whether scapy's fields say what our value says."""
    match kind, value_of(raw):
        case "RSVP_HOP", Hop(address=address, handle=handle):
            return fields == {"neighbor": str(address), "inface": handle}
        case "RSVP_Time", TimeValues(period_ms=period):
            return fields == {"refresh": period}
        case "RSVP_SenderTSPEC", SenderTspec():
            words = (fields["Msg_Format"], fields["Data_Length"], fields["Srv_hdr"], fields["Srv_Length"])
            return words == (0, 7, 1, 6) and fields["Tokens"] == raw.body[8:].hex()
        case "RSVP_Data", _:
            return bool(fields == {"Data": raw.body.hex()})
    return False


def _walk(node: Any):
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from _walk(value)
    elif isinstance(node, list):
        for each in node:
            yield from _walk(each)
