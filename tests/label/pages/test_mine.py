"""A labeller's own page: what she did, what is left, and that nothing there tells a hidden check from other work."""

from tutelage.store.offers import offer


def test_the_page_tells_what_is_left_in_the_project(house):
    person, other = house.person(), house.person()
    assert "Nothing wants another answer just now." in person.client.get(house.path("mine")).text
    for i in range(3):
        house.task("compare", question=f"q{i}", overlap=1)
    house.task("rank", question="another", overlap=2)
    house.task("compare", question="elsewhere", project=house.another_project(), source="elsewhere/x")
    assert "another answer: 3 to compare, 1 to rank." in person.client.get(house.path("mine")).text
    held = house.next(other, kind="compare")
    assert "another answer: 2 to compare, 1 to rank." in person.client.get(house.path("mine")).text, "one is in hand"
    house.answer(other, held["id"], "k" * 20, "skip", reason="unclear")
    assert "another answer: 3 to compare, 1 to rank." in person.client.get(house.path("mine")).text


def test_practice_is_scored_and_hidden_checks_are_not(house):
    house.settings(gold_share=0.5)
    person = house.person()
    gold = {"tiers": [1, 2]}
    house.task("compare", texts=["aa", "bb"], question="p", gold=gold, practice="aa is true.")
    held = house.next(person)
    assert held["practice"]
    left = held["cards"][0]["text"] == "aa"
    house.answer(person, held["id"], "p" * 20, outcome="left" if left else "right")
    text = person.client.get(house.path("mine")).text
    assert "100 % right" in text and "mean of 1" in text
    house.task("compare", texts=["aa", "bb"], question="c", gold=gold)
    offers = (offer(house.store, house.project, person.name) for _ in range(200))
    hidden = next(held for held in offers if held is not None)  # half of the draws give the check, the others nothing
    left = hidden.cards[0][0] == hidden.task.completions[0]
    answer = house.answer(person, hidden.id, "c" * 20, outcome="right" if left else "left")
    assert answer.status_code == 200 and answer.json()["practice"] is None
    text = person.client.get(house.path("mine")).text
    assert "100 % right" in text and "mean of 1" in text, "a wrong answer to a hidden check changes nothing"
