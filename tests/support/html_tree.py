"""A page as a tree, parsed as a browser would."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "image", "path", "use", "polygon", "img", "rect"}


class Element:
    """A node of the parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element] = []
        self.text = ""

    def all(self, tag: str, css: str = "") -> list[Element]:
        """Descendants of a tag and class, in order."""
        found = [self] if self.tag == tag and (not css or css in self.attributes.get("class", "").split()) else []
        return found + [inner for child in self.children for inner in child.all(tag, css)]

    def by_id(self, name: str) -> Element:
        """The one element with this id."""
        [found] = [element for element in self.everything() if element.attributes.get("id") == name]
        return found

    def everything(self) -> list[Element]:
        """This element and all inside."""
        return [self, *(inner for child in self.children for inner in child.everything())]

    def words(self) -> str:
        """All text inside, spaces collapsed."""
        return " ".join(" ".join([self.text, *(child.words() for child in self.children)]).split())


class Page(HTMLParser):
    """Builds the tree and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack = [Element("document", {})]
        self.feed(text)
        assert [element.tag for element in self.stack] == ["document"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if data.strip():  # text keeps its place among the elements
            self.stack[-1].children.append(_text(data))


def _text(data: str) -> Element:
    element = Element("#text", {})
    element.text = data
    return element
