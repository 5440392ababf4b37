"""Who asks, and where: a session, a project's address, and the role of the one in the other."""

from tutelage.store.accounts import change_account, create_account, open_session
from tutelage.store.projects import add_member, change_member, create_project
from tutelage.store.visits import Visit, visit


def test_a_visit_is_account_project_and_role(store):
    here, there = create_project(store, "Here"), create_project(store, "There")
    who = create_account(store, "a@example.org")
    add_member(store, here.id, who.id, "reviewer")
    token = open_session(store, who.id, seconds=60)
    assert visit(store, token, "here") == Visit(who, here, ("reviewer", "active"))
    assert visit(store, token, "there") == Visit(who, there, None)
    assert visit(store, token, "nowhere") == visit(store, token, None) == visit(store, token, "") == Visit(who)
    change_member(store, here.id, who.id, state="paused")
    assert visit(store, token, "here").role == ("reviewer", "paused")


def test_another_members_role_is_not_hers(store):
    here = create_project(store, "Here")
    a, b = create_account(store, "a@example.org"), create_account(store, "b@example.org")
    add_member(store, here.id, a.id, "lead")
    assert visit(store, open_session(store, b.id, seconds=60), "here") == Visit(b, here, None)


def test_what_is_no_session_is_nobody_wherever_it_asks(store):
    create_project(store, "Here")
    who = create_account(store, "a@example.org")
    old, closed = open_session(store, who.id, seconds=-1), open_session(store, who.id, seconds=60)
    change_account(store, who.id, state="closed")
    assert {visit(store, token, "here") for token in ("", "made-up", old, closed)} == {Visit()}
