"""Round-trip times between places: a measured matrix, or a synthetic geography.

PlanetLab format (NetLatency-Data): one row per host, tab-separated round-trip times in ms, 0 or missing where nothing was
measured; gzip when the name ends in ``.gz``.
"""

from __future__ import annotations

import gzip
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

FIBRE_KM_PER_MS = 200.0
"""Light in fibre."""
DETOUR = 1.4
"""How much longer cables are than great circles: Amsterdam to New York comes to 84 ms there and back."""
ACCESS_MS = 2.0
"""Round trip that equipment at the two ends adds."""
EARTH_KM = 6371.0

CITIES: tuple[tuple[str, float, float], ...] = (
    ("Amsterdam", 52.4, 4.9),
    ("London", 51.5, -0.1),
    ("Frankfurt", 50.1, 8.7),
    ("Paris", 48.9, 2.3),
    ("Stockholm", 59.3, 18.1),
    ("Warsaw", 52.2, 21.0),
    ("Madrid", 40.4, -3.7),
    ("Milan", 45.5, 9.2),
    ("Athens", 38.0, 23.7),
    ("Reykjavik", 64.1, -21.9),
    ("New York", 40.7, -74.0),
    ("Montreal", 45.5, -73.6),
    ("Chicago", 41.9, -87.6),
    ("Atlanta", 33.7, -84.4),
    ("Denver", 39.7, -105.0),
    ("Seattle", 47.6, -122.3),
    ("San Jose", 37.3, -121.9),
    ("Sao Paulo", -23.6, -46.6),
    ("Johannesburg", -26.2, 28.0),
    ("Nairobi", -1.3, 36.8),
    ("Mumbai", 19.1, 72.9),
    ("Singapore", 1.4, 103.8),
    ("Tokyo", 35.7, 139.7),
    ("Sydney", -33.9, 151.2),
)


class NoMatrixError(ValueError):
    """The matrix file is missing or has another form; give a path, or ``POLDER_DATA``, or use ``synthetic``."""


@dataclass(frozen=True)
class Matrix:
    """Round-trip times in ms between places; ``rtt_ms[a][b]``, symmetric, never missing. ``source`` says where from."""

    names: tuple[str, ...]
    rtt_ms: tuple[tuple[float, ...], ...]
    source: str

    def place(self, name: str) -> int:
        """The row of a place by name; raises ``ValueError`` with the names that there are."""
        try:
            return self.names.index(name)
        except ValueError:
            raise ValueError(f"no place {name!r}; there are: {', '.join(self.names)}") from None


def synthetic(rng: random.Random) -> Matrix:
    """Real cities on a sphere; the seed adds up to a tenth to every pair, as routes are not equally good."""
    names = tuple(name for name, _, _ in CITIES)
    rows = [[0.0] * len(CITIES) for _ in CITIES]
    for a, (_, *here) in enumerate(CITIES):
        rows[a][a] = ACCESS_MS
        for b in range(a):
            distance = _great_circle_km(here[0], here[1], CITIES[b][1], CITIES[b][2])
            fibre = 2 * distance / FIBRE_KM_PER_MS * DETOUR * rng.uniform(1.0, 1.1)
            rows[a][b] = rows[b][a] = round(fibre + ACCESS_MS, 3)
    return Matrix(names, tuple(map(tuple, rows)), "synthetic")


def _great_circle_km(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    a, b, turn = math.radians(lat_a), math.radians(lat_b), math.radians(lon_b - lon_a)
    cosine = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(turn)
    return EARTH_KM * math.acos(max(-1.0, min(1.0, cosine)))


def planetlab(path: Path, count: int, rng: random.Random) -> Matrix:
    """``count`` hosts of a PlanetLab matrix between which every pair was measured, chosen at random.

    Raises ``NoMatrixError`` when the file is none or holds no such set (a set is grown greedily from a random order).
    """
    rows = read_planetlab(path)
    order = list(range(len(rows)))
    rng.shuffle(order)
    chosen: list[int] = []
    for host in order:
        if len(chosen) == count:
            break
        if all(_measured(rows, host, other) for other in chosen):
            chosen.append(host)
    if len(chosen) < count:
        raise NoMatrixError(f"{path.name} has no {count} hosts that all measured each other from this seed")
    between = [[(_measured(rows, a, b) or ACCESS_MS) if a != b else ACCESS_MS for b in chosen] for a in chosen]
    return Matrix(tuple(f"host{n}" for n in chosen), tuple(map(tuple, between)), path.name)


def read_planetlab(path: Path) -> list[list[float]]:
    """The raw matrix, 0 where nothing was measured."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
        rows = [[float(cell or 0) for cell in line.split("\t")] for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, EOFError) as error:
        raise NoMatrixError(f"cannot read the matrix {path}: {error}") from error
    width = len(rows)
    if not rows or any(len(row) < width for row in rows):
        raise NoMatrixError(f"{path} is not a square matrix of round-trip times")
    return [row[:width] for row in rows]


def _measured(rows: list[list[float]], a: int, b: int) -> float:
    """The mean of both directions as far as measured; 0: neither was."""
    times = [time for time in (rows[a][b], rows[b][a]) if time > 0]
    return sum(times) / len(times) if times else 0.0


def load(source: str, count: int, rng: random.Random) -> Matrix:
    """The matrix that a topology names: ``synthetic``, ``planetlab:N`` (time slice N in ``POLDER_DATA``), or a file's path."""
    if source == "synthetic":
        return synthetic(rng)
    if source.startswith("planetlab:"):
        folder = os.environ.get("POLDER_DATA")
        if not folder:
            raise NoMatrixError("POLDER_DATA does not say where latency/PlanetLabData_N.gz lies")
        return planetlab(Path(folder) / "latency" / f"PlanetLabData_{source.removeprefix('planetlab:')}.gz", count, rng)
    return planetlab(Path(source), count, rng)
