"""People in a project: invited, changed, paused, removed, and forgotten. And who they are, which no export tells."""

import io
import sqlite3
import zipfile

import pytest
import sqlalchemy as sa

from tutelage.store.access import audit_trail, issue_token, tokens
from tutelage.store.accounts import account_by_email, create_account, open_session, session_account
from tutelage.store.chain import verify_chain
from tutelage.store.feedback import events
from tutelage.store.projects import guidelines, members, publish_guideline

MAIL = "marianne.surname@example.org"


def change(house, who, of, **values):
    return house.post(who.client, house.path(f"people/{of.account.id}"), values)


def state_of(house, who) -> tuple[str, str]:
    return next((m.role, m.state) for m in members(house.store, house.project.id) if m.account_id == who.account.id)


def answered(house, who, question="Can I move my booking?") -> str:
    house.task(question=question)
    number = house.next(who)["id"]
    assert house.answer(who, number, f"key-{number}").status_code == 200
    return number


def test_an_invitation_is_shown_once_and_is_not_in_the_store(house):
    page = house.post(house.owner.client, house.path("people/invite"), {"role": "reviewer", "days": "3"}).text
    link = page.partition('value="http://127.0.0.1:8484/invite/')[2].partition('"')[0]
    assert len(link) >= 30 and link not in house.owner.client.get(house.path("people")).text
    assert house.nobody().get(f"/invite/{link}").status_code == 200
    assert not contains(house, link)


@pytest.mark.parametrize("data", [{"role": "owner"}, {"role": "x"}, {}, {"role": "labeller", "days": "0"},
                                  {"role": "labeller", "days": "31"}, {"role": "labeller", "days": "x"}])  # fmt: skip
def test_an_odd_invitation_is_refused(house, data):
    assert house.post(house.owner.client, house.path("people/invite"), data).status_code == 422


def test_who_is_paused_sees_why_and_comes_back_with_her_answers(house):
    lead, who = house.person("lead"), house.person()
    answered(house, who)
    assert change(house, lead, who, state="paused").status_code == 303
    answer = who.client.get(house.path("work"))
    assert answer.status_code == 403 and "paused" in answer.text
    assert change(house, lead, who, state="active").status_code == 303
    assert who.client.get(house.path("mine")).status_code == 200
    assert len(list(events(house.store))) == 1


def test_who_is_paused_while_she_works_cannot_send_the_answer(house):
    who = house.person()
    house.task()
    number = house.next(who)["id"]
    change(house, house.owner, who, state="paused")
    assert house.answer(who, number, "k" * 8).status_code == 403
    change(house, house.owner, who, state="active")
    assert house.answer(who, number, "k" * 8).status_code == 200


def test_who_is_removed_finds_nothing_and_her_answers_stay(house):
    who = house.person()
    answered(house, who)
    change(house, house.owner, who, state="removed")
    for path in ("work", "mine", "guidelines", "desk/next"):
        assert who.client.get(house.path(path)).status_code == 404
    assert "in no project" in who.client.get("/projects").text
    assert [e.feedback.labeler for e in events(house.store)] == [who.name]


def test_a_new_role_holds_at_once(house):
    who = house.person("reviewer")
    assert who.client.get(house.path("people")).status_code == 403
    change(house, house.owner, who, role="lead")
    assert who.client.get(house.path("people")).status_code == 200
    change(house, house.owner, who, role="labeller")
    assert who.client.get(house.path("people")).status_code == 403


@pytest.mark.parametrize("data", [{"state": "x"}, {"role": "owner"}, {"role": "x"}])
def test_no_state_or_role_is_made_up(house, data):
    who = house.person()
    assert change(house, house.owner, who, **data).status_code == 422
    assert state_of(house, who) == ("labeller", "active")


# Forgetting.


def tables(house):
    with house.store.read() as conn:
        for name in sa.inspect(conn).get_table_names():
            yield name, [str(value) for row in conn.execute(sa.text(f'select * from "{name}"')) for value in row]


def contains(house, word: str) -> list[str]:
    """The tables in which a word stands."""
    return [name for name, values in tables(house) if any(word in value for value in values)]


def erase(house, who, *, by=None, typed=None):
    by = by or house.owner
    path = house.path(f"people/{who.account.id}/erase")
    return house.post(by.client, path, {"pseudonym": who.name if typed is None else typed})


def test_an_erased_person_is_nowhere_and_her_answers_still_verify(house):
    who, other = house.person(email=MAIL), house.person()
    answered(house, who)
    answered(house, other, "Another question?")
    before = verify_chain(house.store)
    assert contains(house, MAIL) == ["account"]
    token = who.client.cookies["tutelage"]
    assert erase(house, who).status_code == 303
    assert contains(house, MAIL) == [] and contains(house, "marianne") == []
    assert session_account(house.store, token) is None and who.client.get("/account").status_code == 303
    assert account_by_email(house.store, MAIL) is None
    assert verify_chain(house.store) == before
    assert [e.feedback.labeler for e in events(house.store)] == [who.name, other.name]
    assert who.name not in house.owner.client.get(house.path("people")).text
    answered(house, other, "A third question?")  # the log goes on
    assert verify_chain(house.store).seq == before.seq + 1


def test_an_erased_address_is_not_left_in_the_files_either(house, tmp_path):
    if not (tmp_path / "label.db").exists():
        pytest.skip("the files of PostgreSQL are its own: VACUUM, not the app, takes a deleted row out of them")
    who = house.person(email=MAIL)
    answered(house, who)
    erase(house, who)
    with sqlite3.connect(house.store.where) as conn:  # as a restart of the server does
        assert conn.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0
    left = [p.name for p in tmp_path.rglob("*") if p.is_file() and MAIL.encode() in p.read_bytes()]
    assert left == []


def test_nobody_inherits_the_number_of_an_erased_person(house):
    who = house.person("lead", email=MAIL)
    house.post(who.client, house.path("guidelines"), {"text": "Be kind."})
    erase(house, who)
    house.settings(overlap=2)
    back = house.person(email=MAIL)  # the address is free again, for somebody new
    assert back.account.id != who.account.id and back.name != who.name
    done = [e for e in audit_trail(house.store, house.project.id) if e.action == "guideline published"]
    assert [e.account_id for e in done] == [who.account.id]
    assert back.client.get(house.path("people")).status_code == 403


def test_only_an_owner_erases_and_only_who_was_named(house):
    who, lead = house.person(email=MAIL), house.person("lead")
    assert erase(house, who, by=lead).status_code == 403
    for typed in ("", "someone-else-123", who.name.upper(), house.owner.name):
        assert erase(house, who, typed=typed).status_code == 422
    assert contains(house, MAIL) == ["account"]
    assert house.post(house.owner.client, house.path(f"people/{10**30}/erase"), {"pseudonym": "x"}).status_code == 404


def test_an_owner_is_not_erased(house):
    from tutelage.store.projects import add_member

    add_member(house.store, house.project.id, house.owner.account.id, "lead")
    assert erase(house, house.owner).status_code == 422
    assert house.owner.client.get("/projects").status_code == 200


# Pseudonyms.


def test_addresses_are_for_leads_and_owners_alone(house):
    who, lead = house.person(email=MAIL), house.person("lead")
    answered(house, who)
    for seen in (house.owner, lead):
        assert MAIL in seen.client.get(house.path("people")).text
    for seen in (house.person(), house.person("reviewer")):
        for (method, path), needs in house.app.state.needs.items():
            if method == "GET" and "labeller" in needs | {"reviewer" in needs and "labeller"}:
                shown = seen.client.get(path.replace("{slug}", "house").replace("{number}", "1"))
                assert MAIL not in shown.text, path


def test_no_way_out_of_the_app_names_a_person(house):
    who = house.person(email=MAIL)
    answered(house, who)
    token = issue_token(house.store, house.project.id, "t", "read", seconds=60)
    headers = {"authorization": f"Bearer {token}"}
    found = []
    for what in ("pairs", "rankings", "ratings", "demonstrations", "critiques", "events", "card", "ranked", "all"):
        for ending in ("jsonl", "csv", "parquet"):
            answer = house.nobody().get(f"/api/v1/export/{what}?ending={ending}", headers=headers)
            if answer.status_code == 200:
                found.append(answer.content)
            data = {"what": what, "ending": ending}
            answer = house.post(house.owner.client, house.path("data/export"), data)
            if answer.status_code == 200:
                with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                    found += [archive.read(name) for name in archive.namelist()]
    for path in ("/api/v1/labels", "/api/v1/project", "/api/v1/progress", "/api/v1/openapi.json"):
        found.append(house.nobody().get(path, headers=headers).content)
    assert len(found) >= 10 and any(who.name.encode() in one for one in found)
    for one in found:
        assert MAIL.encode() not in one and b"owner@example.org" not in one


def test_a_snapshot_of_the_store_names_nobody(house, tmp_path):
    from tutelage.store.snapshot import freeze

    who = house.person(email=MAIL)
    answered(house, who)
    freeze(house.store, tmp_path / "snapshot")
    files = [p for p in (tmp_path / "snapshot").rglob("*") if p.is_file()]
    assert files and any(who.name.encode() in p.read_bytes() for p in files)
    assert not any(MAIL.encode() in p.read_bytes() for p in files)


# Projects, guidelines, settings, tokens.


def test_who_has_one_project_is_led_there_and_an_owner_sees_all(house):
    house.another_project()
    who = house.person()
    assert who.client.get("/projects").headers["location"] == house.path("work")
    assert "Elsewhere" in house.owner.client.get("/projects").text


@pytest.mark.parametrize("name", ["", "!!!", "x" * 201, "\x00", "<script>alert(1)</script>", "../../etc"])
def test_a_project_with_an_odd_name_is_refused_or_harmless(house, name):
    answer = house.post(house.owner.client, "/projects", {"name": name})
    assert answer.status_code in (303, 422)
    shown = house.owner.client.get("/projects").text
    assert "<script>alert" not in shown


def test_a_project_of_a_taken_name_is_refused(house):
    assert house.post(house.owner.client, "/projects", {"name": "house"}).status_code == 422


def test_each_guideline_is_a_version_and_the_same_again_is_none(house):
    lead = house.person("lead")
    for text in ("Be kind.", "Be kind.", "Be kind.\r\nBe brief."):
        assert house.post(lead.client, house.path("guidelines"), {"text": text}).status_code == 303
    assert [g.version for g in guidelines(house.store, house.project.id)] == [2, 1]
    page = lead.client.get(house.path("guidelines?version=1")).text
    assert "+Be brief." in page and "to version 2" in page


def test_guidelines_published_at_the_same_moment_are_two_versions(house):
    import threading

    start, wrong = threading.Barrier(6), []

    def publish(n):
        start.wait()
        try:
            publish_guideline(house.store, house.project.id, f"Version of {n}")
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert [g.version for g in guidelines(house.store, house.project.id)] == [6, 5, 4, 3, 2, 1]


def form(house, **values):
    s = house.project.settings
    return {
        "name": house.project.name, "aspects": "overall: Overall", "flags": "false: False", "steps": "rank",
        **{f"mix_{k}": str(v) for k, v in s.mix.items()}, "overlap": "2", "lease_minutes": "30", "revise_minutes": "60",
        "random_share": "0.2", "gold_share": "0", "repeat_share": "0", "repeat_after_days": "7", "break_minutes": "50",
        **values,
    }  # fmt: skip


def test_settings_are_saved_whole_or_not_at_all(house):
    path = house.path("settings")
    assert house.post(house.owner.client, path, form(house)).status_code == 303
    for wrong in (
        {"overlap": "0"}, {"overlap": "x"}, {"overlap": "1e9"}, {"random_share": "0.1"}, {"gold_share": "nan"},
        {"lease_minutes": "inf"}, {"lease_minutes": "-1"}, {"aspects": "Overall quality"}, {"steps": "x"},
        {"flags": "a: A\na: B"}, {"mix_rank": "nan"}, {"mix_rank": "-1"}, {"mix_rank": "inf"},
        {"revise_minutes": "inf"},
    ):  # fmt: skip
        answer = house.post(house.owner.client, path, form(house, name="Changed", **wrong))
        assert answer.status_code == 422, wrong
    short = form(house)
    del short["overlap"]
    assert house.post(house.owner.client, path, short).status_code == 422
    page = house.owner.client.get(path).text
    assert "Changed" not in page and 'value="2"' in page


def test_a_token_is_shown_once_and_ends_when_it_is_revoked(house):
    data = {"name": "loader", "scope": "read", "days": "1"}
    page = house.post(house.owner.client, house.path("tokens"), data).text
    token = "tut_" + page.partition("tut_")[2][:43]
    headers = {"authorization": f"Bearer {token}"}
    assert house.nobody().get("/api/v1/project", headers=headers).status_code == 200
    assert token not in house.owner.client.get(house.path("settings")).text and not contains(house, token)
    (kept,) = tokens(house.store, house.project.id)
    assert house.post(house.owner.client, house.path(f"tokens/{kept.id}/revoke")).status_code == 303
    assert house.nobody().get("/api/v1/project", headers=headers).status_code == 401
    for odd in ("%", "_" * 12, "", "x"):
        assert house.post(house.owner.client, house.path(f"tokens/{odd}/revoke")).status_code in (404, 405)


def test_no_secret_is_in_the_audit(house):
    who = house.person(email=MAIL)
    house.post(house.owner.client, house.path("people/invite"), {"role": "labeller"})
    house.post(house.owner.client, house.path("tokens"), {"name": "n", "scope": "write", "days": "1"})
    change(house, house.owner, who, state="paused")
    erase(house, who)
    lines = audit_trail(house.store, house.project.id)
    assert len(lines) == 4
    for line in lines:
        assert "@" not in str(line.object) and "tut_" not in str(line.object) and who.name not in str(line.object)


def test_a_session_of_a_person_erased_meanwhile_opens_nothing(house):
    account = create_account(house.store, MAIL)
    token = open_session(house.store, account.id, seconds=60)
    from tutelage.store.accounts import erase_account

    erase_account(house.store, account.id)
    assert session_account(house.store, token) is None
