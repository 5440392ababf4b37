"""Files that nobody wishes for, through the real upload route: malformed, hostile, enormous. Each gets one clear page;
none a traceback, a half import, or more than its time.
"""

import gzip
import io
import json
import lzma
import random
import struct
import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
import zstandard

from tutelage.label.uploads import FOLDER, FORMATS
from tutelage.store.schema import metadata

LEAST = 500  # files
MOST_S = 30.0  # for any one of them
GOOD: dict[str, list[dict[str, object]]] = {
    "tasks": [{"prompt": "q", "completions": ["a", {"text": "b", "model": "m"}], "gold": [1, 2], "overlap": 2}],
    "rankings": [{"prompt": "q", "completions": [{"text": "a", "tier": 1}, {"text": "b", "tier": 2}], "margin": 1.5}],
    "pairs": [{"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2, "labeler": "ann", "id": 7}],
    "demonstrations": [{"prompt": "q", "completion": "a"}],
    "chat": [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}],
    "hh": [{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}],
    "oasst": [
        {
            "message_tree_id": "t",
            "prompt": {
                "text": "q", "role": "prompter", "message_id": "1",
                "replies": [{"text": "a", "role": "assistant", "rank": 0, "replies": []}] * 2,
            },
        }
    ],
    "label_studio": [
        {
            "id": 1, "data": {"prompt": "q", "answer1": "a", "answer2": "b"},
            "annotations": [{"id": 2, "result": [{"type": "pairwise", "value": {"selected": "left"}}]}],
        }
    ],
    "argilla": [
        {
            "id": "1", "fields": {"prompt": "q", "a": "x", "b": "y"},
            "responses": {
                "rank": [{"user_id": "u", "value": [{"value": "a", "rank": 1}, {"value": "b", "rank": 2}]}]
            },
        }
    ],
    "alpaca": [{"instruction": "q", "input": "", "output": "a"}],
}  # fmt: skip
ODD: list[object] = [
    None, True, False, 0, -1, 2**31, 2**63, 2**64, -(2**70), 10**400, 1.5, -0.0, 1e308, "", " ", "\x00", "a\x00b",
    "\ud800", "\udfff\ud800", "\ufeff", "x" * 5000, [], [[]], {}, {"": {}}, [None], ["a", "a"], [1, "2", None],
    {"role": "user"}, [{"role": "user", "content": 1}], [{"role": "root", "content": "x"}],
    [{"role": "assistant", "content": "x"}], [{"text": "a", "tier": 2**63}, {"text": "b", "tier": 1}],
    [{"text": "a", "tier": 1}, {"text": "b", "tier": 3}], [{"text": "a", "tier": -1}], ["a"] * 10, ["x"] * 1000,
    [{"text": "a"}] * 300, "=cmd|' /C calc'!A0", "../../etc/passwd", "<script>alert(1)</script>", "{{7*7}}", "NaN",
]  # fmt: skip


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def mutated(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Good rows of every format with one value, at any depth, made odd; fields dropped, doubled and renamed."""
    for name, rows in GOOD.items():
        for n in range(28):
            row = json.loads(json.dumps(draw.choice(rows)))
            place = row
            for _ in range(draw.randrange(4)):
                inner = [
                    v for v in (place.values() if isinstance(place, dict) else place) if v and type(v) in (dict, list)
                ]
                if not inner:
                    break
                place = draw.choice(inner)
            key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            if n % 9 == 0:
                del place[key]
            elif n % 9 == 1 and isinstance(place, dict):
                place[draw.choice(["", "\x00", "id", "kind", "gold", "labeler", "source", "event"])] = draw.choice(ODD)
            else:
                place[key] = draw.choice(ODD)
            good = lines(*rows) if draw.random() < 0.5 else b""
            yield f"{name}.jsonl", good + json.dumps(row).encode() + b"\n"


def damaged(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Whole files of every kind and compression with bytes cut off, flipped, put in, or named wrongly."""
    plain = lines(*(row for rows in GOOD.values() for row in rows[:1]))
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(GOOD["pairs"] * 50), table)
    column = b"prompt,chosen,rejected\nq,a,b\n" * 20
    kinds = [
        ("a.jsonl", lines(*GOOD["pairs"] * 9)), ("a.json", json.dumps(GOOD["rankings"] * 9).encode()),
        ("a.csv", column), ("a.parquet", table.getvalue()), ("a.jsonl.gz", gzip.compress(plain)),
        ("a.jsonl.xz", lzma.compress(plain)), ("a.jsonl.zst", zstandard.compress(plain)),
        ("a.csv.gz", gzip.compress(column)),
    ]  # fmt: skip
    for name, data in kinds:
        for _ in range(12):
            found = bytearray(data)
            for _ in range(draw.randrange(1, 6)):
                found[draw.randrange(len(found))] = draw.randrange(256)
            yield name, bytes(found)
        for _ in range(8):
            yield name, data[: draw.randrange(len(data))]
        yield name, draw.randbytes(300)
        yield name, b""
        yield name, data + draw.randbytes(50)
        for other, _ in kinds:
            if other != name:
                yield other, data[:2000]


def strange() -> Iterator[tuple[str, bytes]]:
    """What people and attackers have sent to such forms before."""
    pair = lines(*GOOD["pairs"])
    for text in (
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "null",
        "[]",
        "7",
        '"x"',
        "{",
        "[{",
        "{}{}",
        "[1,2",
        "\x00",
        "é",
    ):
        yield "a.jsonl", text.encode() + b"\n"
        yield "a.json", text.encode()
        yield "a.jsonl", pair + text.encode() + b"\n"
        yield "a.jsonl", b'{"prompt":"q","chosen":"a","rejected":"b","margin":' + text.encode() + b"}\n"
        yield "a.jsonl", b'{"prompt":"q","completions":["a","b"],"priority":' + text.encode() + b"}\n"
    for head in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00", b"\x1f\x8b", b"PAR1", b"\r\n\r\n", b"\x1a"):
        yield "a.jsonl", head + pair
        yield "a.csv", head + b"prompt,chosen,rejected\nq,a,b\n"
        yield "a.json", head + b'[{"prompt":"q"}]'
    yield "a.jsonl", b'{"prompt":"q","prompt":"r","chosen":"a","rejected":"b","chosen":"c"}\n'
    yield "a.jsonl", b'{"prompt":"\\ud800","completions":["a","b"]}\n'
    yield "a.csv", b"prompt,prompt\na,b\n"
    yield "a.csv", b'prompt,chosen\n"never closed,' + b"x" * 100_000
    yield "a.csv", b'prompt,completions,gold\nq,"[1,","9"\n'
    yield "a.csv", b"prompt,completion_1,completion_2,gold\nq,a,b,1 2\n"
    for name in (
        "../../../etc/passwd.jsonl", "..\\..\\boot.jsonl", "/etc/shadow.jsonl", "a.jsonl\x00.exe",
        "\u202elnosj.a.jsonl", ".jsonl", "a.jsonl.jsonl.gz.zst", "con.jsonl", "'; drop table task; --.jsonl",
        "<img src=x>.jsonl", "a" * 300 + ".jsonl", "a", "a.exe", "a.pickle", "a.pt", "a.parquet.gz", "a.zip",
        "a.tar.gz", "a.xml", "%2e%2e%2fa.jsonl", "$(id).csv", "\n.csv",
    ):  # fmt: skip
        yield name, pair[:-2]


def enormous() -> Iterator[tuple[str, bytes]]:
    """More of something than anybody could judge."""
    yield "a.jsonl", b'{"prompt":"' + b"x" * 10_000_000 + b'","completions":["a","b"]}\n'
    yield "a.jsonl", b"x" * 17_000_000
    yield "a.jsonl", b'{"prompt":' * 100_000
    yield "a.jsonl", b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    yield "a.jsonl", b'{"prompt":"q","completions":["a","b"],"priority":' + b"[" * 900 + b"]" * 900 + b"}\n"
    yield "a.json", b"[" * 100_000
    yield "a.jsonl", b'{"prompt":"q","completions":[' + b'"a",' * 200_000 + b'"b"]}\n'
    yield (
        "a.jsonl",
        b'{"prompt":"q","completions":[' + b'{"text":"a","tier":9},' * 50_000 + b'{"text":"b","tier":1}]}\n',
    )
    yield "a.jsonl", b'{"prompt":"q",' + b",".join(b'"k%d":1' % i for i in range(200_000)) + b"}\n"
    yield "a.jsonl", b'{"prompt":"q","overlap":' + b"9" * 100_000 + b"}\n"
    yield "a.csv", b",".join(b"c%d" % i for i in range(1_000_000)) + b"\n" + b"," * 999_999 + b"\n"
    yield "a.csv", b"prompt\n" + b"\n" * 2_000_000
    yield "a.jsonl.gz", gzip.compress(b"\n" * 200_000_000, 9)
    yield "a.jsonl.xz", lzma.compress(b" " * 100_000_000)
    yield "a.jsonl.zst", zstandard.compress(b"\x00" * 300_000_000)
    yield "a.jsonl.gz", gzip.compress(gzip.compress(b"\n" * 50_000_000))
    yield "a.jsonl", lines({"prompt": "q"}) * 200_001
    wide = io.BytesIO()
    pq.write_table(pa.table({"prompt": pa.array(["x" * 1000] * 100_000).dictionary_encode()}), wide)
    yield "a.parquet", wide.getvalue()
    yield "a.parquet", b"PAR1" + b"\x00" * 100 + struct.pack("<I", 0x7FFFFFFF) + b"PAR1"


def files() -> list[tuple[str, bytes]]:
    draw = random.Random(7)
    return [*mutated(draw), *damaged(draw), *strange(), *enormous()]


def counts(house) -> dict[str, int]:
    """Rows of every table, but for the audit, which says who did what."""
    with house.store.read() as conn:
        return {
            name: conn.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for name, table in metadata.tables.items()
            if name != "audit"
        }


def token_in(page: str) -> str | None:
    start = page.find("/tasks/upload/")
    while start != -1:
        found = page[start + 14 : start + 46]
        if len(found) == 32 and set(found) <= set("0123456789abcdef"):
            return found
        start = page.find("/tasks/upload/", start + 1)
    return None


def test_no_file_breaks_the_door(house, monkeypatch):
    monkeypatch.setattr("tutelage.label.uploads.LARGE", 1 << 40)  # each is gone through while its sender waits
    client, draw = house.owner.client, random.Random(3)
    folder = house.config.data / FOLDER
    given = files()
    assert len(given) >= LEAST
    before, took, refused = counts(house), 0, 0
    for i, (name, data) in enumerate(given):
        what = draw.choice(("tasks", "judgements", "demonstrations"))
        form = {"what": what, "format": "auto" if draw.random() < 0.8 else draw.choice(FORMATS)}
        began = time.monotonic()
        page = house.post(client, house.path("tasks/upload"), form, files={"file": (name, data)})
        assert time.monotonic() - began < MOST_S, f"file {i}, {name}: {time.monotonic() - began:.0f} s"
        assert page.status_code in (200, 422), f"file {i}, {name}: {page.status_code}"
        assert "Traceback" not in page.text and str(house.config.data) not in page.text
        assert counts(house) == before, f"file {i}, {name}: looking through it stored something"
        token = token_in(page.text)
        if token is None:
            assert not list(folder.glob("*")), f"file {i}, {name}: something was left behind"
            refused += 1
            continue
        assert {p.name for p in folder.iterdir()} == {f"{token}.rows"}, "the bytes themselves are not kept"
        rows = draw.choice(("good", "all"))
        done = house.post(client, house.path(f"tasks/upload/{token}/take"), {"rows": rows})
        after = counts(house)
        if done.status_code == 422:
            assert rows == "all" and after == before, f"file {i}, {name}: refused, and yet something was stored"
            house.post(client, house.path(f"tasks/upload/{token}/drop"))
            refused += 1
        else:
            assert done.status_code == 200, f"file {i}, {name}: {done.status_code}"
            before, took = after, took + 1
    assert took > 60 and refused > 200, (
        f"{took} files were taken and {refused} refused: the files are not varied enough"
    )
