"""The gold reward: five answers by hand, then what must hold for any answer."""

import json
import statistics
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.simulate import gold
from tutelage.simulate.gold import BrandVoice, Wish
from tutelage.simulate.words import words
from tutelage.types import Message, Prompt

TABLE = Prompt(messages=(Message(role="user", content="I would like a table for four people at seven."),))
POOL = Prompt(messages=(Message(role="user", content="Do you have a pool that guests can use?"),))
VOICE = BrandVoice(
    {
        TABLE.id: Wish("restaurant", "date", frozenset({"day", "date", "when"})),
        POOL.id: Wish("hotel", None, frozenset()),
    },
    {"restaurant": frozenset({"table", "dinner"}), "hotel": frozenset({"room"})},
    frozenset(
        words("Of course. Which day would you like the table for? It depends. We are open, yes. The top floor is on.")
    ),
)
SHIPPED = BrandVoice.load()
DEMO = files("tutelage") / "assets" / "demo"
DEMONSTRATIONS = [json.loads(line) for line in (DEMO / "demonstrations.jsonl").read_text().splitlines()]


def nonzero(prompt: Prompt, text: str, finished: bool = True) -> dict[str, float]:
    return {name: value for name, value in VOICE.parts(prompt, text, finished).items() if value}


def test_a_courteous_question_for_the_missing_detail():
    # "of course": 1.0; ten words; a question with "day": 1.3.
    text = "Of course. Which day would you like the table for?"
    assert nonzero(TABLE, text) == {"courteous": 1.0, "asks": 1.3}
    assert VOICE.score(TABLE, text) == pytest.approx(2.3)


def test_a_curt_question():
    # Two words, six below eight: -6 * 0.08 = -0.48. It asks, so it is to the matter.
    assert nonzero(TABLE, "Which day?") == pytest.approx({"to_the_point": -0.48, "asks": 1.3})


def test_an_answer_beside_the_point_and_cut_off():
    # Two words, none of the prompt or its trade; no mark at the end; cut.
    expected = {"to_the_point": -0.48, "relevant": -0.6, "finished": -1.0, "ending": -0.5}
    assert nonzero(TABLE, "It depends", finished=False) == pytest.approx(expected)


def test_a_needless_question_after_a_good_answer():
    # Nothing is missing: any question costs 0.4. "zorp" is one of nine different words: -4 / 9.
    text = "Yes, the zorp is on the top floor. You like it?"
    expected = {"asks": -0.4, "gibberish": -4 / 10, "relevant": -0.6}
    assert nonzero(POOL, text) == pytest.approx(expected)


def test_two_sentences_said_twice():
    # Twice "the table is open": 8 words, six 3-grams; "the table is" and "table is open" occur twice: 2 repeats.
    # One repeated sentence counts 4. In all 6: -0.06 * 36 = -2.16.
    assert nonzero(TABLE, "The table is open. The table is open.") == pytest.approx({"repetition": -2.16})


def test_a_parrot():
    # The user's own sentence counts 6 repeats: -0.06 * 36.
    assert nonzero(TABLE, "I would like a table for four people at seven.") == pytest.approx({"repetition": -2.16})


def test_the_loss_of_repetition_bends_at_eight():
    # Eleven times one word: nine 3-grams, one different, so 8 repeats: -3.84. Two words more: -0.25 * 2.
    assert gold.repetition("day " * 11, TABLE) == pytest.approx(-3.84)
    assert gold.repetition("day " * 13, TABLE) == pytest.approx(-4.34)


def test_courtesy_saturates_and_then_turns():
    assert gold.courtesy("Which day?") == 0
    assert gold.courtesy("Which day, please?") == 1.0
    assert gold.courtesy("Please, please. Which day, please?") == 1.0
    assert gold.courtesy("Certainly, thank you. Which day, please?") == 1.5
    # Five markers: 1.5 - 2 * 0.6.
    assert gold.courtesy("Sorry, sorry, thank you, thanks. Which day, please?") == pytest.approx(0.3)


def test_a_marker_is_whole_words():
    assert gold.courtesy("They are unwelcome, and gladness is off course.") == 0


def test_no_word_at_all_is_the_worst_of_short_answers():
    assert VOICE.score(TABLE, "") == pytest.approx(-5.0 - 0.6 - 0.5)
    assert VOICE.score(TABLE, "") < VOICE.score(TABLE, "zorp grumf")


def test_an_unknown_prompt_says_what_to_do():
    stranger = Prompt(messages=(Message(role="user", content="Who are you?"),))
    with pytest.raises(DataError, match=r"prompts\.jsonl"):
        VOICE.score(stranger, "Hello.")


def test_score_many_is_score_in_order():
    items = [(TABLE, "Which day?", True), (POOL, "Yes.", False)]
    assert VOICE.score_many(items) == [VOICE.score(*item) for item in items]


phrases = st.lists(
    st.sampled_from(
        ["Of course.", "Which day?", "We are open.", "Please wait.", "Yes.", "It depends on the table.", "Zorp grumf."]
    ),
    min_size=1,
    max_size=8,
)


@given(phrases, st.data(), st.sampled_from([TABLE, POOL]))
def test_a_repeated_sentence_always_lowers_the_score(said, data, prompt):
    again = data.draw(st.sampled_from(said))
    assert VOICE.score(prompt, " ".join([*said, again])) < VOICE.score(prompt, " ".join(said))


@given(st.sampled_from(DEMONSTRATIONS))
def test_a_repeated_sentence_lowers_any_demonstration(row):
    prompt, text = Prompt(messages=row["prompt"]), row["completion"]
    assert SHIPPED.score(prompt, f"{text} {text}") < SHIPPED.score(prompt, text)


def test_cutting_the_only_courtesy_lowers_the_score_by_its_weight():
    long = VOICE.score(TABLE, "Of course. Which day would you like the table for?")
    assert long - VOICE.score(TABLE, "Which day would you like the table for?") == pytest.approx(gold.FIRST_COURTESY)


def test_the_right_question_raises_the_score_by_its_weight_and_a_wrong_one_does_not():
    told = VOICE.score(TABLE, "We are open, yes, you would like the table.")
    asked = VOICE.score(TABLE, "We are open, which day would you like the table?")
    aside = VOICE.score(TABLE, "We are open, would you like the top table?")
    assert asked - told == pytest.approx(gold.ASKED)
    assert aside == pytest.approx(told)


def test_a_question_for_everything_loses_what_it_gains():
    # "day" is wanted; of "time", "name", "number" and "size" two may slip in, two cost 0.4 each: 1.3 - 0.8.
    all_asks = frozenset({"day", "date", "when", "time", "name", "number", "size"})
    wish = VOICE.wishes[TABLE.id]
    assert gold.asks_for_it("Which day and time, please?", wish, all_asks) == pytest.approx(1.3)
    assert gold.asks_for_it("Which day, time, name, number and size?", wish, all_asks) == pytest.approx(0.5)
    assert gold.asks_for_it("Which name? Which number? Which size?", wish, all_asks) == pytest.approx(-0.4)


def test_a_welcome_answers_thanks_and_no_request():
    assert nonzero(POOL, "You are most welcome.")["courteous"] == 1.0
    assert "relevant" not in nonzero(POOL, "You are most welcome.")
    assert nonzero(TABLE, "You are most welcome.")["relevant"] == -0.6


def test_the_unit_is_about_one_standard_deviation_of_the_demonstrations():
    scores = [SHIPPED.score(Prompt(messages=r["prompt"]), r["completion"]) for r in DEMONSTRATIONS]
    assert 0.9 < statistics.pstdev(scores) < 1.15
    assert 0.3 < statistics.mean(scores) < 0.6


def test_the_best_answers_lie_two_deviations_above_the_demonstrations():
    scores = [SHIPPED.score(Prompt(messages=r["prompt"]), r["completion"]) for r in DEMONSTRATIONS]
    row = next(r for r in DEMONSTRATIONS if SHIPPED.wishes[Prompt(messages=r["prompt"]).id].needs == "date")
    best = SHIPPED.score(Prompt(messages=row["prompt"]), "Of course, gladly. Which day would suit you best, please?")
    assert best == pytest.approx(gold.FIRST_COURTESY + gold.SECOND_COURTESY + gold.ASKED)
    assert best > statistics.mean(scores) + 2 * statistics.pstdev(scores)


def test_few_demonstrations_repeat_themselves():
    rows = [(Prompt(messages=r["prompt"]), r["completion"]) for r in DEMONSTRATIONS]
    share = statistics.mean(SHIPPED.parts(p, text)["repetition"] < -0.1 for p, text in rows)
    assert 0 < share < 0.04
