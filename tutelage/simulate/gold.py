"""The gold reward of the demo: how well an answer keeps the brand voice, as a documented sum. Knows no labeller.

A good answer is courteous, comes to the point, asks for the detail that the request left out, and never says a thing
twice. The unit is about one standard deviation over the demo's demonstrations; their mean is about 0.4, the best
answers reach 2.8. One demonstration in a hundred repeats itself, so a reward model hardly sees the quadratic loss:
optimised too far against such a model, a policy falls off that edge, which is what the demo is there to show.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from tutelage.errors import DataError
from tutelage.simulate.words import content_stems, sentences, stem, words
from tutelage.types import Prompt

# Courtesy. Each marker is a word or two; "gladly" is not "glad".
COURTESY_MARKERS = (
    *("please", "thank you", "thanks", "sorry", "of course", "certainly", "glad", "gladly", "happy to", "pleasure"),
    *("welcome", "apologise", "kindly", "appreciate"),
)
FIRST_COURTESY = 1.0  # most of the brand voice is one friendly word
SECOND_COURTESY = 0.5  # a second, different one is warmer still; a third adds nothing
N_COURTESY = 3  # markers in all, repeated ones counted: more than this is grovelling
GROVELLING = 0.6  # lost for each marker beyond N_COURTESY, so that two too many cost about the first one's worth

# To the point.
IDEAL_WORDS = (8, 22)  # a full sentence or two
WORD_SHORT = 0.08  # lost for each word below: three words ("Which day, then?") cost 0.4
WORD_LONG = 0.12  # lost for each word above: a second paragraph costs more than any courtesy brings
EMPTY = 5.0  # lost by an answer without a word: worse than any answer that says something

# Asks for what is missing.
ASKED = 1.3  # the most useful thing an agent can do, so it weighs more than courtesy
N_ASTRAY = 2  # words that ask for other details may slip in: "Which street is the house on?" ...
SCATTER = 0.4  # ... and each further one costs: asking every customer for everything is a form, not an answer
NEEDLESS_QUESTION = 0.4  # lost where nothing is missing: the customer has to answer once more

# Relevance.
OFF_TOPIC = 0.6  # lost where no word is of the prompt or of its trade
RELEVANT_TO_THANKS = frozenset({"welcome"})  # where nothing is missing, "You are welcome" is an answer

# Never repeats itself.
REPEAT = 0.06  # times the square of the repeats: one repeated 3-gram is forgiven (.06), five are not (1.5)
SENTENCE_REPEATS = 4  # a repeated sentence weighs like this many 3-grams, so even two words said twice cost 0.96
ECHO_REPEATS = 6  # the user's own sentence, given back word for word: a parrot's answer (2.16)
ECHO_WORDS = 4  # shorter sentences ("Good morning.") may be returned
BEND = 8  # repeats up to which the loss is quadratic ...
REPEAT_BEYOND = 0.25  # ... and what each further one costs, so that one collapsed answer does not outweigh a batch

# Form.
CUT_OFF = 1.0  # lost by an answer that the length limit cut
NO_END_MARK = 0.5  # lost without . ? or ! at the end
GIBBERISH = 4.0  # times the share of different words that are in no list: one word in four unknown costs 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is known of a prompt. Example: `{"domain": "restaurant", "needs": "date", "asks": ["day", "date"]}`."""

    domain: str
    needs: str | None  # the detail that the request left out
    asks: frozenset[str]  # any of these in a question asks for it


def courtesy(text: str) -> float:
    """0, 1.0 or 1.5 for no, one or more different markers, less 0.6 for each marker beyond the third."""
    flat = f" {' '.join(words(text))} "
    # A word ends with the space that the next one begins with, so the spaces are doubled to count neighbours.
    flat = flat.replace(" ", "  ")
    counts = Counter({m: flat.count(f" {m.replace(' ', '  ')} ") for m in COURTESY_MARKERS})
    n_different = sum(n > 0 for n in counts.values())
    bonus = FIRST_COURTESY * (n_different >= 1) + SECOND_COURTESY * (n_different >= 2)
    return bonus - GROVELLING * max(0, counts.total() - N_COURTESY)


def to_the_point(text: str) -> float:
    """0 between 8 and 22 words, a linear loss outside, -5 without a word."""
    n = len(words(text))
    if n == 0:
        return -EMPTY
    return -WORD_SHORT * max(0, IDEAL_WORDS[0] - n) - WORD_LONG * max(0, n - IDEAL_WORDS[1])


def asks_for_it(text: str, wish: Wish, all_asks: frozenset[str]) -> float:
    """1.3 for a question that holds a word that asks for the missing detail; a loss where none is missing.

    all_asks  the words that ask for any detail of any prompt: more than two astray cost 0.4 each
    """
    questions = [frozenset(words(s)) for s in sentences(text) if s.endswith("?")]
    if wish.needs is None:
        return -NEEDLESS_QUESTION if questions else 0.0
    n_astray = len((frozenset().union(*questions) & all_asks) - wish.asks)
    return ASKED * any(q & wish.asks for q in questions) - SCATTER * max(0, n_astray - N_ASTRAY)


def repetition(text: str, prompt: Prompt) -> float:
    """Minus the quadratic loss of saying things twice: 3-grams, whole sentences, the user's own sentences."""
    tokens = words(text)
    trigrams = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    said = Counter(" ".join(words(s)) for s in sentences(text))
    heard = {" ".join(w) for m in prompt.messages for s in sentences(m.content) if len(w := words(s)) >= ECHO_WORDS}
    repeats = (
        sum(trigrams.values())
        - len(trigrams)
        + SENTENCE_REPEATS * (said.total() - len(said))
        + ECHO_REPEATS * len(heard & said.keys())
    )
    return -REPEAT * min(repeats, BEND) ** 2 - REPEAT_BEYOND * max(0, repeats - BEND)


def form(text: str, finished: bool) -> dict[str, float]:
    """Losses of an answer that was cut off or does not end like a sentence."""
    ends = text.rstrip().endswith((".", "?", "!"))
    return {"finished": 0.0 if finished else -CUT_OFF, "ending": 0.0 if ends else -NO_END_MARK}


class BrandVoice:
    """The gold reward over the demo's prompts. Example: `BrandVoice.load().score(prompt, "Which day, please?")`."""

    def __init__(
        self, wishes: Mapping[str, Wish], domain_words: Mapping[str, frozenset[str]], known_words: frozenset[str]
    ) -> None:
        """`wishes` by prompt id; `domain_words` are the stems of each trade; `known_words` are not gibberish."""
        self.wishes = wishes
        self.domain_words = domain_words
        self.known_words = known_words
        self.all_asks = frozenset().union(*(w.asks for w in wishes.values()))

    @classmethod
    def load(cls) -> "BrandVoice":
        """The gold reward of the demo as shipped in tutelage/assets/demo."""
        demo = files("tutelage") / "assets" / "demo"
        rows = [json.loads(line) for line in (demo / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
        domains = json.loads((demo / "domains.json").read_text(encoding="utf-8"))
        return cls(
            {Prompt(messages=r["prompt"]).id: Wish(r["domain"], r["needs"], frozenset(r["asks"])) for r in rows},
            {name: frozenset(stem(w) for w in own) for name, own in domains.items()},
            frozenset((demo / "words.txt").read_text(encoding="utf-8").split()),
        )

    def parts(self, prompt: Prompt, text: str, finished: bool = True) -> dict[str, float]:
        """The score in its named parts, each in units of the score; their sum is the score."""
        wish = self._wish(prompt)
        return {
            "courteous": courtesy(text),
            "to_the_point": to_the_point(text),
            "asks": asks_for_it(text, wish, self.all_asks),
            "relevant": self._relevance(prompt, text, wish),
            "repetition": repetition(text, prompt),
            **form(text, finished),
            "gibberish": self._gibberish(prompt, text),
        }

    def score(self, prompt: Prompt, text: str, finished: bool = True) -> float:
        """How well the answer keeps the brand voice; `finished` is False where the length limit cut it."""
        return sum(self.parts(prompt, text, finished).values())

    def score_many(self, items: Iterable[tuple[Prompt, str, bool]]) -> list[float]:
        """The score of each (prompt, text, finished), in order."""
        return [self.score(prompt, text, finished) for prompt, text, finished in items]

    def _wish(self, prompt: Prompt) -> Wish:
        if prompt.id not in self.wishes:
            raise DataError(
                f"prompt {prompt.id} ({prompt.messages[-1].content[:60]!r}) is not one of the {len(self.wishes)} "
                f"prompts of the demo, so nobody knows which detail it leaves out, and it has no gold score. Use "
                f"prompts of tutelage/assets/demo/prompts.jsonl, or let people judge the answers with `tutelage label`."
            )
        return self.wishes[prompt.id]

    def _relevance(self, prompt: Prompt, text: str, wish: Wish) -> float:
        said = content_stems(text)
        about = self.domain_words[wish.domain].union(*(content_stems(m.content) for m in prompt.messages))
        if wish.needs is None:
            about |= RELEVANT_TO_THANKS
        # A question for the missing detail ("Which day?") is about the matter, whatever words it uses.
        return 0.0 if said & about or asks_for_it(text, wish, self.all_asks) > 0 else -OFF_TOPIC

    def _gibberish(self, prompt: Prompt, text: str) -> float:
        # Different words, not all words: said twice, a known word must not make an unknown one look rarer.
        said = set(words(text))
        known = self.known_words.union(*(words(m.content) for m in prompt.messages))
        unknown = {w for w in said if w not in known and stem(w) not in known and not w.isdigit()}
        return -GIBBERISH * len(unknown) / max(1, len(said))
