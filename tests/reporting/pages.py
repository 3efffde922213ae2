"""Reads a page as a browser would take it apart, and refuses what no page of ours may hold."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from nait_fast.reporting import page as page_module

VOID = {"meta", "br", "path", "use", "rect", "hr", "link", "img", "input"}
TAGS = """html head meta title style body header main section aside nav article figure figcaption svg g path use rect
defs clippath text desc h1 h2 h3 h4 p a b i ul li div span table caption thead tbody tr th td details summary pre
code bdi script form label input"""
ALLOWED = set(TAGS.split())
SCRIPT = (Path(page_module.__file__).parent / "page.js").read_text()


class Page(HTMLParser):
    """``words``: the text outside of style; ``tags``: (name, attributes) in order; raises where tags do not match."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert tag in ALLOWED, tag
        assert len(set(names)) == len(names) and not any(name.startswith("on") for name in names), (tag, names)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID | {"g"}, tag  # what closes itself in SVG
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:  # matplotlib's are closed in themselves
            return
        assert self._open and self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def handle_comment(self, data):
        # Nothing but the seal by which a page is known again.
        assert not self._open and re.fullmatch(" nait_fast [0-9a-f]{16} [0-9a-f]{64} ", data), f"a comment: {data}"

    @property
    def words(self) -> str:
        return " ".join("".join(text for tag, text in self.texts if tag not in ("style", "script")).split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    @property
    def plots(self) -> list[dict[str, str]]:
        return [svg for svg in self.find("svg") if svg["class"] == "plot"]

    def find(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check(html: str) -> Page:
    """Parse a page; nothing in it may come from elsewhere, nothing run but our script, every picture is told in words,
    ids are unique."""
    page = Page(html)
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    for name in ("href", "src", "action", "data", "srcset", "poster", "formaction", "background"):
        for value in page.attributes(name):
            assert name == "href" and value.startswith("#") and value[1:] in ids, (name, value)
    styles = [text for tag, text in page.texts if tag == "style"] + page.attributes("style")
    for css in [*styles, *page.attributes("clip-path")]:
        assert "@import" not in css and "//" not in css and css.count("url(") == css.count("url(#"), css[:200]
        for used in css.split("url(#")[1:]:
            assert used.partition(")")[0] in ids
    for svg in page.plots:
        assert svg["role"] == "img" and all(name in ids for name in svg["aria-labelledby"].split())
    assert html.count("<title id=") == html.count("<desc id=") == len(page.plots)
    assert all(svg["class"] == "plot" or svg["aria-hidden"] == "true" for svg in page.find("svg"))  # words follow
    (script,) = (text for tag, text in page.texts if tag == "script")
    assert script == SCRIPT and page.find("script") == [{}] and all("action" not in form for form in page.find("form"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert all("scope" in th for th in page.find("th"))
    metas = page.find("meta")
    assert {"charset": "utf-8"} in metas and any(m.get("name") == "viewport" for m in metas)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert any(m.get("content") == policy for m in metas)
    assert html.isprintable() or not any(ord(c) < 32 and c not in "\n\t" for c in html)
    return page
