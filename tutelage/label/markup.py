"""Untrusted text as safe structure: Markdown becomes a tree of allowed elements, never a string of HTML.

The browser builds nodes from the tree and Jinja escapes its text, so nothing in a model's answer can become markup.
Raw HTML stays visible text; images are shown as their address; links lead nowhere without a click, with no referrer.
"""

from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from markupsafe import Markup, escape

# A node is a text, or [tag, attributes, children].
Node = str | list[Any]

_MARKDOWN = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
_TAGS = {
    "paragraph": "p", "em": "em", "strong": "strong", "s": "s", "blockquote": "blockquote", "bullet_list": "ul",
    "ordered_list": "ol", "list_item": "li", "hr": "hr", "table": "table", "thead": "thead", "tbody": "tbody",
    "tr": "tr", "th": "th", "td": "td",
}  # fmt: skip
ALLOWED = frozenset({*_TAGS.values(), "h2", "h3", "h4", "h5", "h6", "code", "pre", "a", "br"})
MOST = 100_000  # characters: beyond, the text is shown as it is
DEEPEST = 20  # levels


def tree(text: str, top: int = 3) -> list[Node]:
    """The text as nodes. What is too long or nested too deep is one paragraph of plain text.

    top  level that the text's highest headings get: one below the heading under which it stands
    """
    if len(text) > MOST:
        return [["p", {}, [text]]]
    root = SyntaxTreeNode(_MARKDOWN.parse(text))
    nodes = [made for child in root.children for made in _nodes(child, 0, top)]
    return nodes if nodes else [["p", {}, [text]]]


def _nodes(node: SyntaxTreeNode, depth: int, top: int) -> Iterator[Node]:
    if depth > DEEPEST:
        yield _flat(node)
        return
    children = [made for child in node.children for made in _nodes(child, depth + 1, top)]
    match node.type:
        case "text" | "html_inline" | "html_block":
            yield node.content
        case "inline":
            yield from children
        case "paragraph" if node.hidden:  # of a list without blank lines
            yield from children
        case "softbreak":
            yield "\n"
        case "hardbreak":
            yield ["br", {}, []]
        case "code_inline":
            yield ["code", {}, [node.content]]
        case "fence" | "code_block":
            yield ["pre", {}, [["code", {}, [node.content]]]]
        case "heading":
            yield [f"h{min(6, int(node.tag[1]) + top - 1)}", {}, children]
        case "image":
            yield f"[image: {node.content or 'no description'} {node.attrs['src']}]"
        case "link":
            href = str(node.attrs["href"])
            safe = href.startswith(("https://", "http://"))
            yield ["a", {"href": href, "title": href}, children] if safe else ["s", {}, children]
        case kind if kind in _TAGS:
            yield [_TAGS[kind], {}, children]
        case _:
            yield _flat(node)


def _flat(node: SyntaxTreeNode) -> str:
    return " ".join(child.content for child in node.walk() if child.type in ("text", "code_inline", "fence"))


def html(nodes: list[Node]) -> Markup:
    """The same nodes for a page that the server renders; every text is escaped."""
    return Markup("").join(_html(node) for node in nodes)


def _html(node: Node) -> Markup:
    if isinstance(node, str):
        return escape(node)
    tag, attributes, children = node
    assert tag in ALLOWED, f"{tag!r} is no element that text may become"
    if tag in ("br", "hr"):
        return Markup(f"<{tag}>")
    extra = Markup(' rel="noopener noreferrer nofollow" target="_blank"') if tag == "a" else Markup("")
    shown = Markup("").join(Markup(' {}="{}"').format(k, v) for k, v in attributes.items())
    return Markup("<{0}{1}{2}>{3}</{0}>").format(Markup(tag), shown, extra, html(children))
