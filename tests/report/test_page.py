"""The page: it renders from any state of a run, says its figures as they are, and keeps text text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tutelage.errors import ConfigError
from tutelage.report.page import write_report

CANARIES = (
    "</script><img src=x onerror=alert(1)>",
    '"><svg/onload=alert(2)>',
    "' onmouseover='alert(3)",
    "{{ 7*7 }}{% raw %}",
    "</title></style><script>alert(4)</script>",
    "]]><!-- x",
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page, and whether every element was closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data + " "


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def words(page: Path) -> str:
    return " ".join(read(page).text.split())


def test_a_finished_run_shows_every_part(finished):
    folder = finished
    page = write_report(folder)
    assert page == folder / "report.html"
    text, html = words(page), page.read_text(encoding="utf-8")
    for heading in (
        "What happened",
        "Win rates on unseen prompts",
        "The same prompts",
        "Over-optimisation",
        "Reward models",
        "Labels",
        "Training curves",
        "Answers along the way",
        "Alarms",
        "Lineage",
    ):
        assert heading in text, heading  # fmt: skip
    assert "SIMULATED labellers" in text and "not people" in text
    assert "updates = 20 [rloo]" in text  # the recipe
    assert html.count("<svg") > 20 and html.count("<svg") == html.count('role="img" aria-label="')
    assert not list(folder.glob("*.partial"))


def test_figures_on_the_page_are_those_of_the_evaluation(finished):
    folder = finished
    text = words(write_report(folder))
    figures = json.loads((folder / "round-2" / "evaluation" / "figures.json").read_text())
    for name, w in figures["win_rates"].items():
        ours, theirs = name.split(" against ")
        losses = w["n"] - w["wins"] - w["ties"]
        row = f"{ours} against {theirs} {w['wins']} {w['ties']} {losses} {w['n']} {w['rate']:.1%} "
        assert f"{row}{w['low']:.1%} to {w['high']:.1%} {w['length_controlled']:.1%}" in text
    assert f"{figures['kl']['kl']:.2f} ± {1.96 * figures['kl']['kl_se']:.2f} nats" in text
    assert "best of 4 of SFT against SFT" in text and "best of 16 of SFT" in text
    card = json.loads((folder / "round-1" / "reward-0" / "reward.json").read_text())["card"]
    assert f"{card['accuracy_low']:.1%} to {card['accuracy_high']:.1%}" in text and f"{card['ece']:.3f}" in text
    assert "round 1, update 12" in text and "Balance lengths in the comparisons." in text


@pytest.mark.parametrize("upto", ["sft", "rl"])
def test_an_unfinished_run_shows_what_is_there(make, upto):
    text = words(write_report(make(algorithm="rloo").write(upto)))
    assert "not finished" in text
    if upto == "sft":
        assert "Not finished: learning from 611 demonstrations." in text and "has made 20 updates so far" in text
        assert "Over-optimisation" not in text and "Win rates" not in text
    else:
        assert "RLOO has made 9 of 20 updates." in text and "Over-optimisation" in text
        assert "length hacking" in text  # of the newest state
        assert "Explained variance" not in text  # RLOO has no critic
        assert "Answers along the way" in text


def test_a_profile_stands_with_the_curves_of_rl(make, finished):
    phases = [
        {"phase": "sampling", "part": "", "seconds": 1.25, "share": 0.625, "peak_gb": 0.9},
        {"phase": "sampling", "part": "decode", "seconds": 1.0, "share": 0.5, "peak_gb": 0.7},
        {"phase": "rest", "part": "", "seconds": 0.75, "share": 0.375, "peak_gb": 0.6},
    ]
    facts = {
        "updates": 20,
        "seconds": 2.0,
        "memory": "resident set at most",
        "phases": phases,
        "process_bytes": 900_000_000,
    }
    text = words(write_report(make(profile=facts).write()))
    assert "Where the time of round 1 went: 2.00 s an update" in text
    assert "Mean of 20 updates; memory: resident set at most" in text
    assert "sampling 1.250 62.5% 0.90 – decode 1.000 50.0% 0.70 rest 0.750 37.5% 0.60" in text
    assert "Where the time" not in words(write_report(finished))


def test_labels_by_people_and_imported_ones_are_not_called_simulated(make):
    text = words(write_report(make(labels="people", labeler="ann").write()))
    assert "labels by people" in text and "People gave 480 rankings." in text and "SIMULATED" not in text
    assert "judge: held-out reward model" in text and "have people compare" in text and "Gold reward" not in text


def test_an_imported_run_needs_no_labels_of_its_own(make):
    text = words(write_report(make(labels="imported", labeler="import-hh").write()))
    assert "imported labels" in text and "imported rankings took the place of new labels" in text
    assert "SIMULATED" not in text and "import-hh import 3 0 3" in text


def test_text_of_models_and_people_stays_text(make):
    said = " ".join(CANARIES)
    folder = make(questions=CANARIES, said=said, labeler="ann " + CANARIES[1], labels="people").write()
    reader = read(write_report(folder))
    assert not {"script", "img", "iframe", "object", "link"} & set(reader.tags)
    assert not [k for k, _ in reader.attributes if k.startswith("on")]
    for canary in CANARIES:
        assert canary in reader.text


def test_the_page_asks_nothing_of_the_network(finished):
    reader = read(write_report(finished))
    html = "".join(v for _, v in reader.attributes)
    assert not re.search(r"https?:|//", html)
    assert {v[0] for k, v in reader.attributes if k == "href"} == {"#"}
    assert not [k for k, _ in reader.attributes if k in ("src", "srcset", "data", "action", "xlink:href")]
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    ids = [v for k, v in reader.attributes if k == "id"]
    assert {v[1:] for k, v in reader.attributes if k == "href"} <= set(ids) and len(ids) == len(set(ids))


def test_the_style_names_no_outside_thing():
    css = (Path(__file__).parents[2] / "tutelage" / "report" / "templates" / "report.css").read_text()
    assert "url(" not in css and "@import" not in css and "http" not in css


def test_control_and_bidi_characters_are_shown_not_obeyed(make):
    page = write_report(make(said="good \u202egnihton\u0000 end").write())
    html = page.read_bytes().decode("utf-8")
    assert "⟨U+202E⟩gnihton⟨U+0000⟩ end" in html
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", html)


def test_prompts_that_ask_for_harm_are_behind_a_click(make, finished):
    assert 'sensitive"' not in write_report(finished).read_text()
    html = write_report(make(source="hh-harmless").write()).read_text()
    assert html.count('<details class="sensitive">') == 3
    assert html.count('<details class="along sensitive">') == 6
    assert html.index('<details class="sensitive">') < html.index("Can I move my booking?")


def test_a_page_is_replaced_and_the_same_run_gives_the_same_page(finished):
    folder = finished
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a run directory"):
        write_report(tmp_path)
