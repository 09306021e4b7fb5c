"""``make docs``: builds the site into ``build/docs``. It needs nothing but a browser, and works from files."""

from __future__ import annotations

import argparse
from pathlib import Path

import click

from polder.settings.load import SECTIONS, json_schema
from scripts.docs import references, site


def main() -> None:
    """Write all pages, the style and the schemas."""
    parser = argparse.ArgumentParser(prog="python -m scripts.docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/docs"))
    out: Path = parser.parse_args().out
    pages = site.build(out, references.FRAGMENTS)
    for section in SECTIONS:
        (out / f"{section}.schema.json").write_text(json_schema(section))
    click.echo(f"wrote {len(pages)} pages; begin at {(out / 'index.html').resolve().as_uri()}")


if __name__ == "__main__":
    main()
