"""The labeller's desk in a real browser: keys, ties, undo, drafts, a lost server, two windows."""

import pytest

from tutelage.store.assignments import history
from tutelage.store.feedback import current, events
from tutelage.types import CorrectionGiven, Critique, DemonstrationGiven, Flag, Ranking, Rating


class Pressed:
    """Counts what a person presses; a chord is one."""

    def __init__(self, page):
        self.page, self.n = page, 0

    def __call__(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
            self.n += 1


def start(page, site):
    page.goto(site.path("work"))
    page.wait_for_selector(".step")


def saved(page):
    page.locator("#status", has_text="Saved").wait_for()


def shown_texts(page):
    return page.locator("article.answer:visible .text").all_inner_texts()


def rankings(site):
    return [e.feedback for e in current(site.store, kinds=["ranking"])]


def tiers_by_text(site, feedback):
    from tutelage.store.completions import get_completions

    items = feedback.judgement.items
    texts = [c.text for c in get_completions(site.store, [i.completion_id for i in items])]
    return dict(zip(texts, [i.tier for i in items], strict=True))


@pytest.mark.parametrize(("k", "most"), [(4, 6), (9, 12)])
def test_a_ranking_takes_no_more_keys_than_promised(site, visit, k, most):
    site.task("rank", [f"answer {i}" for i in range(k)])
    page = visit()
    start(page, site)
    press, shown = Pressed(page), shown_texts(page)
    press(*[str(i + 1) for i in range(k)], "Enter")
    saved(page)
    assert press.n <= most
    (feedback,) = rankings(site)
    assert tiers_by_text(site, feedback) == {text: i + 1 for i, text in enumerate(shown)}
    assert feedback.active_ms > 0 and len(feedback.shown) == k and feedback.guideline


def test_the_same_digit_is_a_tie_and_gaps_close(site, visit):
    site.task("rank", ["a", "b", "c", "d"])
    page = visit()
    start(page, site)
    shown = shown_texts(page)
    Pressed(page)("2", "4", "2", "1", "Enter")
    saved(page)
    assert [tiers_by_text(site, rankings(site)[0])[t] for t in shown] == [2, 3, 2, 1]


def test_focus_stays_with_the_card_and_a_screen_reader_hears_where_it_went(site, visit):
    site.task("rank", ["a", "b", "c", "d"])
    page = visit()
    start(page, site)
    for _ in range(3):
        page.keyboard.press("Shift+ArrowDown")
        assert page.evaluate("document.activeElement.dataset.card") == "0"
    assert "A: place 3" in page.inner_text("#live")
    page.keyboard.press("j")
    page.keyboard.press("t")
    assert "B: place 3, tied with A" in page.inner_text("#live")


def test_an_order_that_nobody_made_is_not_submitted(site, visit):
    site.task("rank", ["a", "b", "c"])
    page = visit()
    start(page, site)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert "has no place yet" in page.inner_text("#notice")
    assert rankings(site) == []


def test_undo_takes_back_a_key_and_after_a_submission_the_whole_answer(site, visit):
    site.task("rank", ["a", "b"])
    page = visit()
    start(page, site)
    shown = shown_texts(page)
    Pressed(page)("1", "2", "u")
    assert page.locator(".answer.placed").count() == 1
    Pressed(page)("2", "Enter")
    saved(page)
    page.keyboard.press("u")
    page.wait_for_selector("text=You are revising")
    Pressed(page)("2", "ArrowUp", "1")
    page.locator("article.answer").nth(0).focus()
    Pressed(page)("2")
    page.locator("article.answer").nth(1).focus()
    Pressed(page)("1", "Enter")
    page.wait_for_selector("text=nothing for you to do")
    (feedback,) = rankings(site)
    assert [tiers_by_text(site, feedback)[t] for t in shown] == [2, 1]
    assert len(list(events(site.store, kinds=["ranking"]))) == 2  # the first answer is still in the log


def test_a_draft_survives_a_reload(site, visit):
    site.task("demonstrate", [])
    page = visit()
    start(page, site)
    page.fill("textarea", "Of course. Which day")
    page.reload()
    page.wait_for_selector(".step")
    assert page.input_value("textarea") == "Of course. Which day"
    page.locator("textarea").press("Control+Enter")
    saved(page)
    (event,) = events(site.store)
    assert isinstance(event.feedback.judgement, DemonstrationGiven)


def test_an_answer_waits_in_the_browser_while_the_server_cannot_be_reached(site, visit):
    site.task("rank", ["a", "b"], question="One?")
    site.task("rank", ["c", "d"], question="Two?")
    page = visit()
    start(page, site)
    # The second task is fetched behind the first.
    page.wait_for_function(
        "performance.getEntriesByType('resource').filter((e) => e.name.includes('/next?')).length > 1"
    )
    page.context.set_offline(True)
    Pressed(page)("1", "2", "Enter")
    page.wait_for_selector("text=kept here until the server is back")
    assert rankings(site) == []
    page.context.set_offline(False)
    saved(page)
    assert len(rankings(site)) == 1
    visit.trouble[:] = [t for t in visit.trouble if "ERR_INTERNET_DISCONNECTED" not in t]


def test_a_second_window_cannot_answer_the_same_task_twice(site, visit):
    site.task("rank", ["a", "b"])
    first, second = visit(), visit()
    start(first, site)
    start(second, site)
    Pressed(first)("1", "2", "Enter")
    saved(first)
    Pressed(second)("2", "1", "Enter")
    second.wait_for_selector("text=answered already")
    assert len(list(events(site.store))) == 1
    visit.trouble[:] = [t for t in visit.trouble if "409" not in t]


def test_rate_then_rank_with_a_flag_and_a_critique_of_selected_words(site, visit):
    site.settings(steps="rate_then_rank")
    site.task("rank", ["It is open today.", "No."])
    page = visit()
    start(page, site)
    Pressed(page)("6", "2", "Enter")
    page.wait_for_selector("text=Rank the answers")
    page.keyboard.press("f")
    page.check("dialog label:has-text('false') input")
    page.click("dialog button.primary")
    page.keyboard.press("c")
    page.fill("dialog textarea", "Says too little.")
    page.click("dialog button.primary")
    Pressed(page)("1", "2", "Enter")
    saved(page)
    kinds = [type(e.feedback.judgement) for e in events(site.store)]
    assert kinds == [Ranking, Rating, Rating, Flag, Critique]
    assert sorted(e.feedback.judgement.value for e in events(site.store, kinds=["rating"])) == [2.0, 6.0]


def test_what_a_dialog_was_told_counts_for_the_very_next_key(site, visit):
    site.task("rank", ["a", "b"])
    page = visit()
    start(page, site)
    Pressed(page)("1", "2", "f")
    page.check("dialog label:has-text('false') input")
    # The browser tells of a closed dialog in a task of its own; a quick hand is there before it.
    page.evaluate("""async () => {
        document.querySelector("dialog button.primary").click();
        for (let i = 0; i < 10; i++) await null;
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    }""")
    saved(page)
    assert [type(e.feedback.judgement) for e in events(site.store)] == [Ranking, Flag]


def test_escape_leaves_a_dialog_with_nothing_said(site, visit):
    site.task("rank", ["a", "b"])
    page = visit()
    start(page, site)
    Pressed(page)("1", "2", "c")
    page.fill("dialog textarea", "Not meant.")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.keyboard.press("Enter")
    saved(page)
    assert [type(e.feedback.judgement) for e in events(site.store)] == [Ranking]


def test_grades_that_contradict_the_ranking_give_a_notice_and_no_refusal(site, visit):
    site.settings(steps="rate_then_rank")
    site.task("rank", ["a", "b"])
    page = visit()
    start(page, site)
    Pressed(page)("1", "7", "Enter", "1", "2", "Enter")
    assert "is ranked higher" in page.inner_text("#notice")
    page.keyboard.press("Enter")
    saved(page)
    assert len(rankings(site)) == 1


def test_a_comparison_by_arrows_with_its_strength(site, visit):
    site.task("compare", ["a", "b"])
    page = visit()
    start(page, site)
    shown = shown_texts(page)
    Pressed(page)("ArrowRight", "3", "Enter")
    saved(page)
    (feedback,) = rankings(site)
    assert tiers_by_text(site, feedback) == {shown[0]: 2, shown[1]: 1} and feedback.judgement.strength == 3


def test_nought_is_a_strength_and_neither_a_place_nor_a_grade(site, visit):
    site.task("compare", ["a", "b"])
    page = visit()
    start(page, site)
    Pressed(page)("ArrowLeft", "0", "Enter")
    saved(page)
    assert rankings(site)[0].judgement.strength == 0
    site.settings(steps="rate_then_rank")
    site.task("rank", ["c", "d"])
    page.reload()
    page.wait_for_selector(".step")
    Pressed(page)("0")
    assert page.locator(".notes li").count() == 0 and page.inner_text("#live") == "Grades go from 1 to 7"
    Pressed(page)("6", "2", "Enter", "0")
    assert page.locator(".answer.placed").count() == 0 and page.inner_text("#live") == "Places go from 1 to 2"


def test_a_card_is_dragged_to_its_place_and_from_there_to_another(site, visit):
    site.task("rank", ["a", "b", "c"])
    page = visit()
    start(page, site)
    shown = shown_texts(page)
    row, chip = page.locator(".tiers li"), page.locator(".chip")
    for letter, where in (("A", 1), ("B", 0), ("C", 1), ("C", 2)):
        chip.filter(has_text=letter).drag_to(row.nth(where))
    assert [text.split() for text in row.all_inner_texts()] == [["1", "B"], ["2", "A"], ["3", "C"]]
    page.click("#submit")
    saved(page)
    assert [tiers_by_text(site, rankings(site)[0])[t] for t in shown] == [2, 1, 3]


@pytest.mark.parametrize("kind", ["rank", "compare", "demonstrate", "correct", "critique"])
def test_the_prompt_of_any_task_can_be_reported(site, visit, kind):
    site.task(kind, {"rank": ["a", "b"], "compare": ["a", "b"], "demonstrate": []}.get(kind, ["It open."]))
    page = visit()
    start(page, site)
    page.get_by_role("button", name="Report the prompt").click()
    page.check("dialog label:has-text('false') input")
    page.fill("#flag-note", "It names a guest.")
    page.click("dialog button.primary")
    page.reload()  # a report is part of the draft
    page.locator("#about-prompt", has_text="Flag: ").wait_for()
    if kind == "critique":
        page.keyboard.press("c")
        page.fill("#critique-text", "Not a sentence.")
        page.click("dialog button.primary")
    elif kind in ("demonstrate", "correct"):
        page.fill("#writing", "It is open.")
    else:
        Pressed(page)(*(["1", "2"] if kind == "rank" else ["ArrowLeft"]))
    page.click("#submit")
    saved(page)
    [flag] = [e.feedback for e in events(site.store, kinds=["flag"])]
    assert flag.judgement.completion_id is None and flag.judgement.note == "It names a guest."
    assert len(list(events(site.store))) == 2


def test_a_correction_shows_what_changed_and_is_a_pair_and_a_demonstration(site, visit):
    site.task("correct", ["It open today."])
    page = visit()
    start(page, site)
    page.fill("textarea", "It is open today.")
    assert page.inner_text(".change ins").strip() == "is"
    page.locator("textarea").press("Control+Enter")
    saved(page)
    (event,) = events(site.store)
    assert isinstance(event.feedback.judgement, CorrectionGiven)


def test_a_skip_needs_a_reason_and_the_task_goes_to_somebody_else(site, visit):
    site.task("rank", ["a", "b"])
    page = visit()
    start(page, site)
    page.keyboard.press("s")
    page.check("dialog label:has-text('Distressing') input")
    page.click("dialog button.primary")
    saved(page)
    assert [e.feedback.judgement.reason for e in events(site.store)] == ["distressing"]
    other = visit("reviewer")
    start(other, site)


def test_identical_completions_are_one_card_and_tie(site, visit):
    site.task("rank", ["same", "other", "same"])
    page = visit()
    start(page, site)
    assert page.locator("article.answer").count() == 2
    Pressed(page)("1", "2", "Enter")
    saved(page)
    tiers = [i.tier for i in rankings(site)[0].judgement.items]
    assert len(tiers) == 3 and sorted(tiers) in ([1, 1, 2], [1, 2, 2])


def test_practice_teaches_and_a_hidden_check_looks_like_any_task(site, visit):
    site.task("rank", ["good", "bad"], gold={"tiers": [1, 2], "explanation": "It asks for the day."}, practice=True)
    page = visit()
    start(page, site)
    shown = shown_texts(page)
    Pressed(page)(*("12" if shown[0] == "good" else "21"), "Enter")
    page.wait_for_selector("text=It asks for the day.")
    page.click("dialog button.primary")
    page.wait_for_selector("text=nothing for you to do")
    (held,) = history(site.store, site.project.id, site.person("labeller").pseudonym)
    assert held.score == 1.0


def test_keys_can_be_bound_anew_and_are_silent_while_somebody_writes(site, visit):
    site.task("rank", ["a", "b"])
    page = visit()
    start(page, site)
    page.keyboard.press("?")
    page.locator("#key-next").press("x")
    page.click("dialog button.primary")
    page.locator("article.answer").nth(0).focus()
    page.keyboard.press("x")
    assert page.evaluate("document.activeElement.dataset.card") == "1"
    page.reload()
    page.wait_for_selector(".step")
    page.keyboard.press("x")
    assert page.evaluate("document.activeElement.dataset.card") == "1"
    page.keyboard.press("c")
    page.locator("dialog textarea").type("x1 s")
    assert page.locator(".answer.placed").count() == 0


def test_no_model_and_no_completion_id_reaches_the_browser(site, visit):
    site.task("rank", ["a", "b"])
    page = visit()
    with page.expect_response(lambda r: "/desk/next" in r.url) as caught:
        start(page, site)
    told = caught.value.text()
    from tutelage.store.feedback import head
    from tutelage.store.tasks import list_tasks

    assert head(site.store).seq == 0
    for completion in list_tasks(site.store, site.project.id)[0][0].completions:
        assert completion not in told
    assert "model" not in told
