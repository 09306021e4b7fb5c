"""A stored site with the sizes of real ones: an index page and a collection of pages, the same bytes every time.

Sizes and numbers of files come from published statistics; the bytes are noise, which nothing compresses away.

- ``index``: the median desktop home page by type of resource. Source: HTTP Archive, Web Almanac 2024, chapter "Page Weight"
  (October 2024): HTML 18 KB, CSS 78 KB, JavaScript 613 KB in 24 files, images 1,054 KB in 18, fonts 131 KB; it gives no number of
  style sheets and fonts, eight and four are ours. Third parties' files are among them, as if the site served them itself.
- ``page1`` … ``page4``: the 10th, 15th, 20th and 25th percentile of size and number of requests of the pages in EcoIndex's reference
  (cnumr/ecoindex_reference, ``ecoindex_reference.json``): 145 KB in 15, 320 in 25, 479 in 34, 632 in 42. How bytes divide among
  types is the index page's.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """Files of one type: how many, their bytes together, and the element that names one."""

    suffix: str
    count: int
    total: int
    element: str


_CSS, _SCRIPT = '<link rel="stylesheet" href="{}">', '<script src="{}" defer></script>'
_FONT, _IMAGE = '<link rel="preload" as="font" href="{}">', '<img src="{}" alt="">'
INDEX_HTML = 18_000
INDEX = (
    Kind("css", 8, 78_000, _CSS),
    Kind("js", 24, 613_000, _SCRIPT),
    Kind("woff2", 4, 131_000, _FONT),
    Kind("png", 18, 1_054_000, _IMAGE),
)
COLLECTION = ((15, 144_700), (25, 319_530), (34, 479_460), (42, 631_970))
"""Requests and bytes of each further page."""
SPREAD = 1.0
"""Sizes of one type's files are log-normal with this standard deviation: a few large ones, many small."""


@dataclass(frozen=True)
class Stored:
    """A page on the disk: its path on the server, requests (itself included) and bytes in all."""

    path: str
    requests: int
    total: int


def write(www: Path, seed: int = 1) -> tuple[Stored, ...]:
    """Write all pages below ``www``: the index page first."""
    rng = random.Random(seed)
    pages = [_page(www, "index", INDEX_HTML, INDEX, rng)]
    pages += [_page(www, f"page{n}", *_like_the_index(*size), rng) for n, size in enumerate(COLLECTION, 1)]
    return tuple(pages)


def _like_the_index(requests: int, total: int) -> tuple[int, tuple[Kind, ...]]:
    """The index page's shares of another page: at least one file of each type."""
    whole, files = INDEX_HTML + sum(kind.total for kind in INDEX), sum(kind.count for kind in INDEX)
    counts = [max(1, round((requests - 1) * kind.count / files)) for kind in INDEX]
    counts[-1] += requests - 1 - sum(counts)
    scaled = zip(INDEX, counts, strict=True)
    kinds = tuple(Kind(kind.suffix, count, round(total * kind.total / whole), kind.element) for kind, count in scaled)
    return total - sum(kind.total for kind in kinds), kinds


def _page(www: Path, name: str, html: int, kinds: tuple[Kind, ...], rng: random.Random) -> Stored:
    folder = www / "set" / name
    folder.mkdir(parents=True, exist_ok=True)
    elements = []
    for kind in kinds:
        for number, size in enumerate(_sizes(kind, rng), 1):
            file = f"{kind.suffix}{number}.{kind.suffix}"
            (folder / file).write_bytes(rng.randbytes(size))
            elements.append(kind.element.format(f"/set/{name}/{file}"))
    head = "<!doctype html><meta charset=utf-8><title>A stored page</title>\n" + "\n".join(elements) + "\n"
    text = (head + "<p>" + rng.randbytes(html).hex())[: max(html, len(head))]
    (folder / "index.html").write_text(text)
    return Stored(f"/set/{name}/", 1 + len(elements), len(text) + sum(kind.total for kind in kinds))


def _sizes(kind: Kind, rng: random.Random) -> list[int]:
    shares = [math.exp(rng.gauss(0, SPREAD)) for _ in range(kind.count)]
    sizes = [max(1, int(kind.total * share / sum(shares))) for share in shares]
    sizes[0] += kind.total - sum(sizes)
    return sizes
