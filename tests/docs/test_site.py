"""The documentation site: every link leads somewhere, and the references leave nothing out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scripts.docs import references, site

from polder.cli.main import COMMANDS
from polder.model import overlay_messages, ring_messages
from polder.settings.load import SECTIONS, json_schema
from polder.shell.metrics import known

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Links, anchors and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and targets."""
        known = dict(attrs)
        if "id" in known:
            self.anchors.append(str(known["id"]))
        self.links += [str(known[name]) for name in ("href", "src") if name in known]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site."""
    out = tmp_path_factory.mktemp("site")
    site.build(out, references.FRAGMENTS)
    for section in SECTIONS:
        (out / f"{section}.schema.json").write_text(json_schema(section))
    return out


def test_every_link_leads_somewhere(built: Path) -> None:
    pages = {path.name: Page(path.read_text()) for path in built.glob("*.html")}
    assert len(pages) >= 20
    for name, page in pages.items():
        assert len(page.anchors) == len(set(page.anchors)), f"{name}: an anchor twice"
        for link in page.links:
            path, _, anchor = link.partition("#")
            assert not re.match(r"[a-z]+:|//", link), f"{name} needs {link} from elsewhere"
            assert (built / (path or name)).exists(), f"{name} → {link}"
            if anchor:
                assert anchor in pages[path or name].anchors, f"{name} → {link}"


def test_nothing_is_left_unresolved_or_out_of_the_contents(built: Path) -> None:
    for path in built.glob("*.html"):
        text = path.read_text()
        assert "&lt;!--" not in text and "<!-- " not in text, path.name
        assert text.count("<h1") == 1, path.name
    listed = {source for _, sources in site.SECTIONS for source in sources}
    written = {str(path.relative_to(ROOT)) for folder in ("docs/site", "docs/design") for path in (ROOT / folder).glob("*.md")}
    assert written <= listed


def test_references_name_everything(built: Path) -> None:
    text = {path.stem: path.read_text() for path in built.glob("*.html")}
    assert all(f"polder {name}" in text["commands"] for name in COMMANDS)
    assert all(f"polder_{name}" in text["metrics"] for name in known())
    kinds = [kind for pair in overlay_messages.METHODS.values() for kind in pair]
    kinds += [
        kind for kind in vars(ring_messages).values() if isinstance(kind, type) and kind.__module__ == ring_messages.__name__
    ]
    assert all(kind.__name__ in text["protocol"] for kind in kinds if not kind.__name__.startswith("_"))
    assert text["protocol"].count("_request_") >= 2, "the errors are read from their source"


def test_a_page_without_title_and_an_unknown_fragment_are_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        site.build(tmp_path, {})
