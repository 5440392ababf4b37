"""Projects, members, invitations and guidelines, on both databases."""

import threading

import pytest

from tutelage.errors import StoreError
from tutelage.store.accounts import account_by_email, create_account
from tutelage.store.projects import (
    Aspect,
    ProjectSettings,
    accept_invite,
    add_member,
    change_member,
    change_settings,
    create_project,
    find_project,
    get_project,
    guideline,
    guidelines,
    invite,
    look_up_invite,
    members,
    projects,
    publish_guideline,
    roles_of,
)


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Brand voice", "brand-voice"), ("  É A!! ", "a"), ("x" * 90, "x" * 40), ("a/../b", "a-b"), ("7", "7")],
)
def test_a_project_gets_an_address_from_its_name(store, name, slug):
    made = create_project(store, name)
    assert made.slug == slug and get_project(store, slug) == made == projects(store)[0]


@pytest.mark.parametrize("name", ["", "   ", "!!!", "é", "\x00"])
def test_a_name_without_letters_gives_no_address(store, name):
    with pytest.raises(StoreError, match="gives no address"):
        create_project(store, name)
    assert projects(store) == []


@pytest.mark.parametrize("slug", ["A", "-a", "a b", "a/b", "x" * 41, "a\n"])
def test_an_odd_address_is_refused(store, slug):
    with pytest.raises(StoreError, match="gives no address"):
        create_project(store, "name", slug=slug)


def test_a_taken_address_is_refused(store):
    create_project(store, "One")
    with pytest.raises(StoreError, match="project at 'one' already"):
        create_project(store, "one!")
    assert find_project(store, "two") is None
    with pytest.raises(StoreError, match="no project 'two'"):
        get_project(store, "two")


# Settings.


def test_settings_come_back_as_they_were_set(store):
    made = create_project(store, "P")
    settings = ProjectSettings(aspects=(Aspect(key="tone", label="Tone é"),), overlap=3, steps="rate_then_rank")
    changed = change_settings(store, made.id, settings.model_dump(mode="json"), "  New name ")
    assert changed == settings == get_project(store, "p").settings and get_project(store, "p").name == "New name"
    assert (
        change_settings(store, made.id, settings.model_dump(mode="json"), " ") and projects(store)[0].name == "New name"
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"overlap": 0}, "overlap"), ({"overlap": 51}, "overlap"), ({"random_share": 0.19}, "random_share"),
        ({"lease_minutes": 0}, "lease_minutes"), ({"lease_minutes": float("inf")}, "lease_minutes"),
        ({"revise_minutes": float("nan")}, "revise_minutes"), ({"unknown": 1}, "unknown"), ({"mix": {}}, "mix"),
        ({"mix": {"rank": 0}}, "mix"), ({"mix": {"rank": -1, "compare": 5}}, "mix"), ({"mix": {"x": 1}}, "mix"),
        ({"mix": {"rank": float("inf")}}, "mix"), ({"steps": "x"}, "steps"),
        ({"aspects": [{"key": "a", "label": "A"}] * 2}, "stands twice"),
        ({"flags": [{"key": "a", "label": "A"}] * 2}, "stands twice"),
        ({"aspects": [{"key": "A", "label": "A"}]}, "key"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(store, values, why):
    made = create_project(store, "P")
    with pytest.raises(StoreError, match=why):
        change_settings(store, made.id, values, "Changed")
    assert get_project(store, "p") == made


# Members.


def test_a_member_has_one_role_in_a_project_and_none_in_another(store):
    a, b = create_project(store, "A"), create_project(store, "B")
    who = create_account(store, "w@example.org")
    add_member(store, a.id, who.id, "labeller")
    add_member(store, a.id, who.id, "reviewer")
    assert roles_of(store, who.id) == {a.id: ("reviewer", "active")} and b.id != a.id
    assert roles_of(store, who.id) == {a.id: ("reviewer", "active")}
    (member,) = members(store, a.id)
    assert (member.pseudonym, member.email, member.account_id) == (who.pseudonym, "w@example.org", who.id)
    assert members(store, b.id) == []


def test_a_state_is_changed_and_joining_again_lets_in_again(store):
    a, who = create_project(store, "A"), create_account(store, "w@example.org")
    add_member(store, a.id, who.id, "labeller")
    change_member(store, a.id, who.id, state="removed")
    assert roles_of(store, who.id)[a.id] == ("labeller", "removed")
    with pytest.raises(StoreError, match="not in this project"):
        change_member(store, a.id, who.id + 1, state="paused")
    add_member(store, a.id, who.id, "labeller")
    assert roles_of(store, who.id)[a.id] == ("labeller", "active")


# Invitations.


def test_an_invitation_is_used_once(store):
    project = create_project(store, "A")
    token = invite(store, project.id, "reviewer", seconds=60)
    assert look_up_invite(store, token) == (project.id, "reviewer") and look_up_invite(store, token + "x") is None
    number = accept_invite(store, token, email="n@example.org", password_hash="h")
    assert roles_of(store, number)[project.id] == ("reviewer", "active") and look_up_invite(store, token) is None
    with pytest.raises(StoreError, match="used already or has run out"):
        accept_invite(store, token, email="m@example.org")
    assert account_by_email(store, "m@example.org") is None


def test_an_invitation_of_many_at_once_takes_one(store):
    project = create_project(store, "A")
    token = invite(store, project.id, "labeller", seconds=60)
    start, inside, refused = threading.Barrier(8), [], []

    def join(i):
        start.wait()
        try:
            inside.append(accept_invite(store, token, email=f"n{i}@example.org"))
        except StoreError:
            refused.append(i)

    threads = [threading.Thread(target=join, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (len(inside), len(refused)) == (1, 7)
    assert [m.account_id for m in members(store, project.id)] == inside
    assert sum(account_by_email(store, f"n{i}@example.org") is not None for i in range(8)) == 1


def test_a_sign_up_that_fails_does_not_use_the_invitation_up(store):
    project = create_project(store, "A")
    create_account(store, "n@example.org")
    token = invite(store, project.id, "labeller", seconds=60)
    for email in ("n@example.org", "a\x00b@example.org"):
        with pytest.raises(StoreError):
            accept_invite(store, token, email=email)
    assert look_up_invite(store, token) and members(store, project.id) == []


def test_an_invitation_that_ran_out_lets_nobody_in(store):
    token = invite(store, create_project(store, "A").id, "labeller", seconds=-1)
    assert look_up_invite(store, token) is None
    with pytest.raises(StoreError, match="run out"):
        accept_invite(store, token, email="n@example.org")


# Guidelines.


def test_guidelines_are_versions_and_the_newest_is_in_force(store):
    a, b = create_project(store, "A"), create_project(store, "B")
    assert guideline(store, a.id) is None
    texts = ["one", "two", "two", "one", "\x00 é"]
    made = [publish_guideline(store, a.id, t) for t in texts]
    assert [g.version for g in made] == [1, 2, 2, 3, 4]
    assert guideline(store, a.id) == made[-1] and [g.version for g in guidelines(store, a.id)] == [4, 3, 2, 1]
    other = publish_guideline(store, b.id, "one")  # the same words elsewhere are another guideline
    assert other.version == 1 and other.id not in {g.id for g in made}


def test_guidelines_published_at_once_are_versions_without_gaps(store):
    project, start = create_project(store, "A"), threading.Barrier(6)

    def publish(i):
        start.wait()
        publish_guideline(store, project.id, f"text {i}")

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [g.version for g in guidelines(store, project.id)] == [6, 5, 4, 3, 2, 1]
