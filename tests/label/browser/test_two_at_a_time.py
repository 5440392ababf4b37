"""A ranking out of questions with two answers: what is seen, what an undo takes back, what a reload leaves."""

import pytest

from tutelage.store.completions import get_completions
from tutelage.store.feedback import current


@pytest.fixture
def begin(site, visit):
    """begin(n, …) is a desk with a task of n answers and the texts of its cards, in their order."""

    def begun(texts, **look):
        site.task("rank", texts)
        page = visit(**look)
        page.goto(site.path("work"))
        page.wait_for_selector(".step")
        return page, shown_texts(page)

    return begun


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def saved(page):
    page.locator("#status", has_text="Saved").wait_for()


def shown_texts(page):
    return page.locator("article.answer:visible .text").all_inner_texts()


def ranking(site):
    """The place of each text."""
    [event] = current(site.store, kinds=["ranking"])
    items = event.feedback.judgement.items
    texts = [c.text for c in get_completions(site.store, [i.completion_id for i in items])]
    return dict(zip(texts, [i.tier for i in items], strict=True))


def question(page, shown):
    """The texts of the two answers that are compared, the one on the left first."""
    return [shown["ABCDEFGHI".index(page.locator(".insertion .choices button").nth(i).inner_text()[0])] for i in (0, 2)]


def n_question(page):
    return int(page.inner_text(".insertion").split("Question ")[1].split(":")[0])


def test_the_questions_build_the_same_ranking_with_few_questions(site, begin):
    texts = [f"answer {i}" for i in range(9)]
    page, shown = begin(texts, width=390, height=844, touch=True)
    page.click("text=Compare two at a time")
    asked = 0
    while page.locator(".insertion").count():
        left, right = question(page, shown)
        assert shown_texts(page) == [left, right]  # these two alone, as they are named
        page.locator(".insertion .choices button").nth(0 if left < right else 2).click()
        asked += 1
    assert asked <= 21
    page.click("#submit")
    saved(page)
    assert ranking(site) == {t: i + 1 for i, t in enumerate(texts)}


def test_undo_takes_back_one_answer_and_never_the_task_before(site, begin):
    page, _ = begin(["a", "b", "c", "d"])
    site.task("rank", ["e", "f", "g", "h"], question="After?")
    press(page, "1", "2", "3", "4", "Enter")
    page.get_by_text("After?").wait_for()
    saved(page)
    shown = shown_texts(page)
    press(page, "i", "ArrowRight")
    first = question(page, shown)
    press(page, "ArrowLeft")
    assert n_question(page) == 3
    press(page, "u")
    assert n_question(page) == 2 and question(page, shown) == first
    press(page, "i")
    assert page.locator("article.answer:visible").count() == 4
    press(page, "i")  # what was answered is still there
    assert n_question(page) == 2 and question(page, shown) == first
    press(page, "u", "u")
    assert page.locator(".insertion").count() == 0 and page.locator("text=You are revising").count() == 0
    page.keyboard.press("i")
    press(page, "ArrowDown", "ArrowDown", "ArrowDown")
    assert page.locator(".answer.placed").count() == 4
    press(page, "u")  # the last question is asked again
    assert n_question(page) == 3 and page.locator("article.answer:visible").count() == 2


def test_the_questions_and_what_was_answered_survive_a_reload(begin):
    page, shown = begin(["a", "b", "c", "d"])
    press(page, "i", "ArrowRight")
    before = question(page, shown)
    page.reload()
    page.wait_for_selector(".insertion")
    assert n_question(page) == 2 and question(page, shown) == before and shown_texts(page) == before
    press(page, "u")
    assert n_question(page) == 1


def test_the_question_stays_in_sight_on_a_phone(begin):
    texts = [f"answer {i}. " + "It goes on for long. " * 60 for i in range(6)]
    page, _ = begin(texts, width=390, height=844, touch=True)
    page.locator(".step-line").get_by_role("button", name="Compare two at a time").click()
    for _ in range(3):
        for button in page.locator(".insertion .choices button").all():
            box = button.bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= 844 and box["x"] + box["width"] <= 390, box
        page.locator(".insertion .choices button").nth(2).tap()


def test_a_difference_is_marked_only_from_an_answer_that_is_seen(begin):
    long = "Of course, I can move the booking for you. The table is free on Friday at seven and at eight."
    page, _ = begin([long, "No.", "Not today.", long.replace("seven", "nine")])
    marked = page.locator("article.answer:visible", has_text="Marked: ")
    assert marked.count() == 1
    press(page, "i")
    for _ in range(3):  # each ties with the first, so that each stands beside it once
        like = sum("Of course" in text for text in shown_texts(page))
        assert marked.count() == (like == 2)
        press(page, "ArrowDown")
    assert page.locator(".answer.placed").count() == 4 and marked.count() == 1
