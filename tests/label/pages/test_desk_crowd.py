"""Many labelers at once over real HTTP: each task goes to as many people as it wants, and each answer is there once."""

import http.client
import json
import threading
from collections import Counter
from urllib.parse import urlsplit

from tutelage.store.assignments import answers_of
from tutelage.store.chain import verify_chain
from tutelage.store.feedback import events
from tutelage.store.tasks import list_tasks

PEOPLE, TASKS, OVERLAP = 8, 10, 3


def test_a_crowd_empties_the_desk_and_nothing_is_lost_doubled_or_asked_of_too_many(house, server):
    for i in range(TASKS):
        house.task(overlap=OVERLAP, question=f"Question {i}?")
    told, wrong, start = [], [], threading.Barrier(PEOPLE)

    def work(i, person):
        headers = {
            "Cookie": f"tutelage={person.client.cookies['tutelage']}", "X-Form-Mark": house.mark(person.client),
            "Sec-Fetch-Site": "same-origin", "Accept": "application/json", "Content-Type": "application/json",
        }  # fmt: skip
        connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)

        def ask(method, path, body=None):
            connection.request(method, house.path(path), body and json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return json.loads(answer.read())

        start.wait()
        try:
            while (task := ask("GET", "desk/next")["task"]) is not None:
                key = f"key-{i}-{len(told):05d}"
                body = {"key": key, "tiers": [1, 2, 3, 4], "active_ms": 1000}
                first = ask("POST", f"desk/{task['id']}/answer", body)
                assert ask("POST", f"desk/{task['id']}/answer", body) == first  # its acknowledgement was lost, say
                told.append((first["committed"], key, person.name))
        except Exception as e:
            wrong.append(e)
        finally:
            connection.close()

    crowd = [threading.Thread(target=work, args=(i, house.person())) for i in range(PEOPLE)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert not wrong
    stored = [(e.seq, e.feedback.idempotency_key, e.feedback.labeler) for e in events(house.store)]
    assert stored == sorted(told) and len(stored) == TASKS * OVERLAP
    assert set(Counter(h.task.id for h in answers_of(house.store, house.project.id)).values()) == {OVERLAP}
    assert all(t.slots == 0 for t, _ in list_tasks(house.store, house.project.id))
    verify_chain(house.store)
