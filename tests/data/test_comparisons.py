"""Rankings as rows: each completion once, none of them cut."""

import pytest
import torch

from tutelage.data.comparisons import comparison_batch, ranked_rows, without_oldest_turns
from tutelage.errors import DataError
from tutelage.types import Message, Prompt, RankedGroup


@pytest.fixture
def groups(ask):
    return [
        RankedGroup(prompt=ask("Is the pool open?"), texts=("Yes.", "No.", "Maybe so."), tiers=(1, 2, 2)),
        RankedGroup(prompt=ask("Hi"), texts=("Hello.", "word " * 100), tiers=(1, 2)),
        RankedGroup(prompt=ask("Hi"), texts=("Bye.", "Hello."), tiers=(2, 1), margin=1.5, aspect="kind"),
    ]


@pytest.fixture
def render(small_chat):
    def row(prompt, text):
        before, answer = small_chat.prompt_ids(prompt), small_chat.completion_ids(text)
        if len(before) + len(answer) > small_chat.window:
            raise DataError("too long")
        return before + answer, [False] * len(before) + [True] * len(answer)

    return row


def test_a_ranking_with_one_text_too_long_is_dropped_whole_and_counted(groups, render):
    rows, n_dropped = ranked_rows(groups, render)
    assert n_dropped == 1
    assert [r.group for r in rows] == [groups[0], groups[2]]
    assert [r.margin for r in rows] == [0.0, 1.5]


def test_no_usable_ranking_is_an_error(groups, render):
    with pytest.raises(DataError, match="none of the 1 rankings can be used"):
        ranked_rows(groups[1:2], render)
    with pytest.raises(DataError, match="none of the 0 rankings"):
        ranked_rows([], render)


def test_every_completion_is_one_row_beside_its_rivals(groups, render, small_chat):
    batch = comparison_batch(ranked_rows(groups, render)[0])
    assert batch.tier_C.tolist() == [1, 2, 2, 2, 1]
    assert batch.group_C.tolist() == [0, 0, 0, 1, 1]
    assert batch.margin_P.tolist() == [0.0, 1.5]
    assert batch.aspect_P == ("overall", "kind")
    assert batch.n_prompts == 2
    texts = [small_chat.text(t[:n]) for t, n in zip(batch.batch.token_BT.tolist(), batch.batch.length_B, strict=True)]
    assert [t.endswith(w) for t, w in zip(texts, ["Yes.", "No.", "Maybe so.", "Bye.", "Hello."], strict=True)] == [
        True
    ] * 5


def test_the_mask_stands_on_the_answer_of_each_row(groups, render, small_chat):
    batch = comparison_batch(ranked_rows(groups, render)[0]).batch
    rows = zip(batch.token_BT, batch.mask_BT, strict=True)
    assert [small_chat.text(t[m].tolist()) for t, m in rows] == ["Yes.", "No.", "Maybe so.", "Bye.", "Hello."]
    assert batch.token_BT[torch.arange(5), batch.length_B - 1].eq(small_chat.end_id).all()
    assert batch.mask_BT[torch.arange(5), batch.length_B - 1].all()


def test_grades_of_one_labeler_become_a_ranking_with_ties():
    from tutelage.data.comparisons import rankings_from_ratings
    from tutelage.store.snapshot import RatedText
    from tutelage.types import Message, Prompt

    prompt = Prompt(messages=(Message(role="user", content="hi"),))

    def rated(text, value, aspect="helpful", labeler="ann"):
        return RatedText(prompt=prompt, text=text, aspect=aspect, value=value, labeler=labeler, source="s")

    groups = rankings_from_ratings(
        [
            rated("a", 6),
            rated("b", 2),
            rated("c", 6),
            rated("a", 1, "honest"),
            rated("b", 5, "honest"),
            rated("a", 3, labeler="bob"),
        ]
    )
    # Grades 6, 2, 6 are tiers 1, 2, 1; bob graded one text, which compares nothing.
    assert [(g.aspect, g.texts, g.tiers) for g in groups] == [
        ("helpful", ("a", "b", "c"), (1, 2, 1)),
        ("honest", ("a", "b"), (2, 1)),
    ]


def talk(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return Prompt(messages=tuple(Message(role=roles[role], content=text) for role, text in turns))


def counted(window):
    """A renderer of one token a letter."""

    def row(prompt, text):
        n, m = sum(len(t.content) for t in prompt.messages), len(text)
        if n + m > window:
            raise DataError("too long")
        return [1] * (n + m), [False] * n + [True] * m

    return row


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        (20, [("s", "ss"), ("u", "uuuu"), ("a", "aaaa"), ("u", "vvv"), ("a", "bb"), ("u", "w")]),  # 16 + 4 letters
        (19, [("s", "ss"), ("u", "vvv"), ("a", "bb"), ("u", "w")]),
        (12, [("s", "ss"), ("u", "vvv"), ("a", "bb"), ("u", "w")]),
        (11, [("s", "ss"), ("u", "w")]),
        (7, [("s", "ss"), ("u", "w")]),
    ],
)
def test_the_oldest_turns_go_whole_until_both_answers_fit(window, kept):
    whole = talk(("s", "ss"), ("u", "uuuu"), ("a", "aaaa"), ("u", "vvv"), ("a", "bb"), ("u", "w"))
    group = RankedGroup(prompt=whole, texts=("y", "long"), tiers=(1, 2), source="here")
    found, n = without_oldest_turns([group], counted(window))
    assert found[0].prompt.messages == talk(*kept).messages and n == (window < 20)
    assert (found[0].texts, found[0].tiers, found[0].source) == (group.texts, group.tiers, "here")
    assert ranked_rows(found, counted(window))[1] == 0


def test_what_fits_in_no_case_stays_and_is_counted_as_too_long():
    groups = [
        RankedGroup(prompt=talk(("u", "uuuu"), ("a", "aa"), ("u", "w")), texts=("y", t), tiers=(1, 2))
        for t in ("no", "far too long")
    ]
    found, n = without_oldest_turns(groups, counted(5))
    assert n == 1 and found[1] is groups[1]
    assert ranked_rows(found, counted(5))[1] == 1
