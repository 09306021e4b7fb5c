"""Markdown into pages: one template, a contents list beside each page, light and dark."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_FRAGMENT = re.compile(r"^<!-- (\w+) -->$", re.M)
Fragment = Callable[[], str]

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Begin", ("docs/site/index.md",)),
    ("Journeys", tuple(f"docs/site/journey-{n}.md" for n in range(1, 8))),
    ("Operating", ("docs/site/runbook.md", "docs/site/keynote.md")),
    (
        "References",
        ("docs/site/commands.md", "docs/site/configuration.md", "docs/site/metrics.md", "docs/site/protocol.md", "GLOSSARY.md"),
    ),
    (
        "Understanding",
        ("ARCHITECTURE.md", "SECURITY.md", *(f"docs/design/{path.name}" for path in sorted((ROOT / "docs/design").glob("*.md")))),
    ),
    ("Working on it", ("CONTRIBUTING.md", "CHANGELOG.md")),
)


@dataclass(frozen=True)
class Page:
    """One page: ``source`` below the repository, ``name`` of its file without ``.html``."""

    source: str
    title: str
    text: str

    @property
    def name(self) -> str:
        """``docs/site/x.md`` → ``x``; ``docs/design/x.md`` → ``design-x``; ``SECURITY.md`` → ``security``."""
        path = Path(self.source)
        return f"design-{path.stem}" if path.parent.name == "design" else path.stem.lower()


def build(out: Path, fragments: Mapping[str, Fragment]) -> list[Page]:
    """Write every page and the style into ``out``; a page's ``<!-- name -->`` is replaced by that fragment's Markdown.

    Raises ``KeyError`` for a fragment that does not exist, ``ValueError`` for a page without a title.
    """
    out.mkdir(parents=True, exist_ok=True)
    pages = {source: _read(source, fragments) for _, sources in SECTIONS for source in sources}
    for page in pages.values():
        (out / f"{page.name}.html").write_text(_page(page, pages))
    (out / "style.css").write_text((Path(__file__).parent / "style.css").read_text())
    return list(pages.values())


def _read(source: str, fragments: Mapping[str, Fragment]) -> Page:
    text = _FRAGMENT.sub(lambda found: fragments[found[1]](), (ROOT / source).read_text())
    title = re.match(r"# (.+)", text)
    if title is None:
        raise ValueError(f"{source} begins without a title")
    return Page(source, title[1], text)


# Rendering


def _page(page: Page, pages: Mapping[str, Page]) -> str:
    body, headings = _render(page, pages)
    here = "\n".join(f'<li><a href="#{anchor}">{text}</a></li>' for level, anchor, text in headings if level == 2)
    on_this_page = f'<nav class="here" aria-label="On this page"><h2>On this page</h2><ul>{here}</ul></nav>' if here else ""
    title = html.escape(page.title if page.title == "Polder" else f"{page.title} · Polder")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<link rel="stylesheet" href="style.css">\n</head>\n<body>\n'
        f'<a class="skip" href="#content">To the text</a>\n<nav class="site" aria-label="Contents">{_contents(page, pages)}</nav>\n'
        f'<main id="content">\n{body}</main>\n{on_this_page}\n</body>\n</html>\n'
    )


def _contents(page: Page, pages: Mapping[str, Page]) -> str:
    parts = ['<a class="home" href="index.html">Polder</a>']
    for section, sources in SECTIONS:
        parts.append(f"<h2>{section}</h2><ul>")
        for source in sources:
            known = pages[source]
            here = ' aria-current="page"' if known == page else ""
            parts.append(f'<li><a href="{known.name}.html"{here}>{html.escape(known.title)}</a></li>')
        parts.append("</ul>")
    return "".join(parts)


def _render(page: Page, pages: Mapping[str, Page]) -> tuple[str, list[tuple[int, str, str]]]:
    """HTML, and headings as (level, anchor, HTML)."""
    markdown = MarkdownIt("commonmark").enable("table")
    markdown.add_render_rule("fence", _fence)
    tokens = markdown.parse(page.text)
    headings: list[tuple[int, str, str]] = []
    taken: set[str] = set()
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            inside = tokens[index + 1]
            anchor = _anchor(inside.content, taken)
            token.attrSet("id", anchor)
            headings.append((int(token.tag[1]), anchor, markdown.renderer.render(inside.children or [], markdown.options, {})))
        for child in token.children or []:
            if child.type == "link_open":
                child.attrSet("href", _target(str(child.attrGet("href") or ""), page, pages))
    return markdown.renderer.render(tokens, markdown.options, {}), headings


def _anchor(text: str, taken: set[str]) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
    anchor, number = plain, 2
    while anchor in taken:
        anchor, number = f"{plain}-{number}", number + 1
    taken.add(anchor)
    return anchor


def _target(href: str, page: Page, pages: Mapping[str, Page]) -> str:
    """A link between Markdown files as one between pages; anything else stays."""
    path, mark, anchor = href.partition("#")
    if not path.endswith(".md") or "://" in path:
        return href
    source = (ROOT / page.source).parent.joinpath(path).resolve()
    known = pages.get(str(source.relative_to(ROOT)))
    return f"{known.name}.html{mark}{anchor}" if known else href


def _fence(_renderer: object, tokens: list[Token], index: int, *_: object) -> str:
    """A block of commands says on which machine they are typed; drawings are drawings."""
    token = tokens[index]
    words = token.info.split()
    code = f"<pre><code>{html.escape(token.content)}</code></pre>\n"
    if words[:1] == ["sh"] and len(words) > 1:
        return f'<figure class="machine"><figcaption>{html.escape(words[1].replace("-", " "))}</figcaption>{code}</figure>\n'
    return code
