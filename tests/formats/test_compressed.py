"""Bytes in and out: bombs stopped at once, cut files noticed, nothing half written."""

import gzip
import lzma
import resource
import time
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.formats.compressed import MAGIC, read_bytes, written

LIMITS = {"max_bytes": 1 << 30, "max_ratio": 300}
PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}


def read(path, **limits) -> bytes:
    return b"".join(read_bytes(path, **{**LIMITS, **limits}))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=5000), max_size=4))
def test_what_is_written_is_read_and_equal_content_has_equal_bytes(tmp_path, suffix, parts):
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    for path in (one, two):
        with written(path) as out:
            for part in parts:
                out.write(part)
    assert read(one) == b"".join(parts)
    assert one.read_bytes() == two.read_bytes()


def test_the_hour_of_writing_is_not_in_the_bytes(tmp_path):
    with written(tmp_path / "a.gz") as out:
        out.write(b"x")
    head = (tmp_path / "a.gz").read_bytes()[:10]
    assert (head[3], head[4:8]) == (0, bytes(4))  # no name, no time


@pytest.mark.parametrize("suffix", PACK)
def test_files_of_several_members_are_read_whole(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](b"one ") + PACK[suffix](b"two"))
    assert read(path) == b"one two"


@pytest.mark.parametrize("suffix", PACK)
def test_a_bomb_is_stopped_at_once(tmp_path, suffix):
    # A head that cannot be compressed does not hide what comes behind it.
    head = bytes(zlib.crc32(i.to_bytes(4, "big")) & 255 for i in range(200_000))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](head + bytes(1 << 28)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match="compression bomb"):
        read(path)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("keep", [0, 1, 7, 30, -1])
def test_a_cut_file_is_noticed_wherever_it_was_cut(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](b"".join(b'{"a": %d}\n' % i for i in range(1000)))[:keep])
    with pytest.raises(DataError, match=r"cut|right name|damaged"):
        read(path)


@pytest.mark.parametrize("suffix", PACK)
def test_damage_is_said_plainly(tmp_path, suffix):
    with written(tmp_path / f"a{suffix}") as out:
        out.write(bytes(range(256)) * 50)
    good = (tmp_path / f"a{suffix}").read_bytes()
    for at in range(len(MAGIC[suffix]) + 8, len(good), 7):
        path = tmp_path / f"b{suffix}"
        path.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
        with pytest.raises(DataError, match="b" + suffix):
            read(path)


def test_a_wrong_name_a_missing_file_and_too_much_are_said(tmp_path):
    plain = tmp_path / "a.gz"
    plain.write_bytes(b'{"a": 1}')
    with pytest.raises(DataError, match="not of that kind"):
        read(plain)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "b").write_bytes(bytes(100))
    with pytest.raises(DataError, match="more than 99 bytes"):
        read(tmp_path / "b", max_bytes=99)


def test_a_failed_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written(path) as out:
        out.write(b"new")
        raise ZeroDivisionError
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
    with pytest.raises(DataError, match="folder does not exist"), written(tmp_path / "no" / "a"):
        pass
