"""Reads a page as a browser would, as far as tests ask: tags, texts, pictures, tables, what is fetched."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """What stands in a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open = Counter(), [], []
        self.sources, self.alts, self.text, self.title, self.style = [], [], "", "", ""
        self.headings, self.rows, self.notes, self.details = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags[tag] += 1
        self.attributes.append((tag, attributes))
        self.sources += [attributes[name] for name in ("src", "href", "srcset", "data", "poster") if name in attributes]
        if tag == "img":
            self.alts.append(attributes["alt"])
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "details":
            self.details.append("")
        elif tag == "li" or (tag == "p" and attributes.get("class") == "note"):
            self.notes.append("")
            self.open[-1] = f"{tag}.note"

    def handle_endtag(self, tag):
        assert self.open.pop().partition(".")[0] == tag, tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "style":
            self.style += data
        elif inside == "title":
            self.title += data
        elif inside != "script":
            self.text += data
            if re.fullmatch("h[1-6]", inside):
                level, before = self.headings[-1]
                self.headings[-1] = (level, before + data)
            elif inside in ("td", "th"):
                self.rows[-1][-1] += data
            elif inside.endswith(".note"):
                self.notes[-1] += data
            if "details" in self.open:
                self.details[-1] += data

    def check(self):
        """That the page is closed, complete for those who do not see it, and fetches and sends nothing."""
        assert not self.open
        assert all(source.startswith("data:image/png;base64,iVBOR") for source in self.sources)
        assert all(self.alts)
        assert not {"link", "iframe", "object", "embed", "base", "form"} & self.tags.keys()
        assert not re.search(r"url\(|@import|https?:", self.style)
        assert self.tags["title"] == self.tags["h1"] == self.tags["main"] == self.tags["script"] == 1
        assert dict(self.attributes)["html"]["lang"] == "en"
        for _, attributes in self.attributes:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
        (policy,) = [one["content"] for tag, one in self.attributes if tag == "meta" and "http-equiv" in one]
        assert policy.startswith("default-src 'none'; img-src data:; ")
        assert "'unsafe-inline'" not in policy.partition("script-src")[2]
        levels = [level for level, _ in self.headings]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), self.headings
        names = [one["aria-label"] for tag, one in self.attributes if one.get("role") == "region"]
        assert all(names)


def read(text):
    """A page that was read."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader
