"""Untrusted text as nodes: nothing in it becomes an element or an address that was not allowed."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.label.markup import ALLOWED, MOST, html, tree

MARKDOWN = st.lists(
    st.sampled_from(
        ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "](javascript:alert(1))", "[a", "![b",
         "`", "```\n",
         "\n\n", "\n", "> ", "- ", "1. ", "# ", "|a|b|\n|-|-|\n|c|d|\n", "**", "~~", "&lt;",
         "&#x6A;avascript:", "<", ">",
         '"', "'", "\\", "data:text/html,x", "https://x.example/?a=\"b\" onclick=c", "word", " ",
         "\t", "\x00", "\ud7ff",
         "<!--", "-->", "<![CDATA[", "]]>", "(http://x)", "<http://x>", "<javascript:x>", "[r]: javascript:x\n", "[r]"]
    ) | st.text(max_size=8),
    max_size=25,
).map("".join)  # fmt: skip


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attrs]

    def handle_data(self, data):
        self.text += data


def walk(nodes):
    for node in nodes:
        yield node
        if not isinstance(node, str):
            yield from walk(node[2])


@settings(max_examples=300)
@given(MARKDOWN)
def test_no_text_becomes_more_than_the_allowed(text):
    nodes = tree(text)
    for node in walk(nodes):
        if isinstance(node, str):
            continue
        tag, attributes, _ = node
        assert tag in ALLOWED
        assert set(attributes) <= ({"href", "title"} if tag == "a" else set())
        assert all(v.startswith(("https://", "http://")) for k, v in attributes.items())
    seen = Seen()
    seen.feed(str(html(nodes)))
    assert set(seen.tags) <= ALLOWED
    for tag, name, value in seen.attributes:
        assert tag == "a" and name in ("href", "title", "rel", "target"), (tag, name)
        assert name not in ("href", "title") or re.match("https?://", value)


def shown(text: str) -> str:
    return str(html(tree(text)))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a **b** `c`", "<p>a <strong>b</strong> <code>c</code></p>"),
        ("# A\n\n## B", "<h3>A</h3><h4>B</h4>"),
        ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
        ("```py\n<b>\n```", "<pre><code>&lt;b&gt;\n</code></pre>"),
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](ftp://y)", "<p><s>x</s></p>"),
        ("[x](//y.example)", "<p><s>x</s></p>"),
        ("![x](https://y.example/z.png)", "<p>[image: x https://y.example/z.png]</p>"),
        ("", "<p></p>"),
        ("a  \nb", "<p>a<br>b</p>"),
    ],
)
def test_markdown_is_shown(text, wanted):
    assert shown(text) == wanted


def test_a_link_leads_out_with_no_way_back():
    assert shown("[x](https://y.example)") == (
        '<p><a href="https://y.example" title="https://y.example" rel="noopener noreferrer nofollow" target="_blank">'
        "x</a></p>"
    )


@given(st.text(max_size=200))
def test_no_word_of_a_plain_text_is_lost(text):
    words = re.findall(r"[A-Za-z]{3,}", text)
    seen = Seen()
    seen.feed(shown(text))
    for word in words:
        assert word in seen.text or word.lower() in ("amp", "quot") or "&" in text


@pytest.mark.parametrize(
    "text",
    ["x" * (MOST + 1), "> " * 5000 + "x", "- " * 3000 + "x", "[" * 5000, "*" * 20_000, "`" * 9999, "![" * 3000,
     "a|b\n-|-\n" + "c|d\n" * 5000, "<" * 20_000, "\n" * 50_000, "[a](" * 2000, "**a " * 5000, "1. " * 2000],
    ids=lambda t: ascii(t[:6]),
)  # fmt: skip
def test_a_text_made_to_be_slow_or_deep_is_shown_in_time(text):
    began = time.process_time()
    nodes = tree(text)
    assert html(nodes) is not None
    assert depth(nodes) < 80
    assert time.process_time() - began < 3


def depth(nodes) -> int:
    return 1 + max((depth(n[2]) for n in nodes if not isinstance(n, str)), default=0)


def test_headings_begin_one_below_what_they_stand_under():
    text = "# A\n\n## B\n\n###### F"
    assert str(html(tree(text, 2))) == "<h2>A</h2><h3>B</h3><h6>F</h6>"
    assert str(html(tree(text, 4))) == "<h4>A</h4><h5>B</h5><h6>F</h6>"
