"""Bytes in and out of plain, .gz, .xz and .zst files, with limits against bombs. Knows nothing of what they mean.

Input is fed to the decompressor in small pieces and let out in windows: a window that grew more than `max_ratio` times
is never let out, so a bomb is stopped after a few MiB, before anyone parses it.
"""

import contextlib
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import zstandard

from tutelage.errors import DataError
from tutelage.publish import ASIDE, disk_errors

SUFFIXES = (".gz", ".xz", ".zst")
FEED_BYTES = 1024  # so that one step of the decompressor gives a few MiB at most, whatever the input
WINDOW_BYTES = 4 << 20
MEMORY_BYTES = 256 << 20  # for a dictionary or window that the file asks for
MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _new(suffix: str) -> _Decompressor:
    if suffix == ".gz":
        return zlib.decompressobj(wbits=31)
    if suffix == ".xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)
    return zstandard.ZstdDecompressor(max_window_size=MEMORY_BYTES).decompressobj()


def suffix_of(path: Path) -> str:
    """The compression of a file by its name: .gz, .xz, .zst or nothing."""
    return path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""


def read_bytes(path: Path, *, max_bytes: int, max_ratio: int) -> Iterator[bytes]:
    """The decompressed bytes in pieces. Raises DataError for what is cut, no such file, too large or a bomb."""
    try:
        with path.open("rb") as file:
            pieces = _raw(file) if not suffix_of(path) else _windows(path, file, max_ratio)
            n = 0
            for piece in pieces:
                n += len(piece)
                if n > max_bytes:
                    raise DataError(f"{path}: more than {max_bytes} bytes of content. Split the file.")
                yield piece
    except FileNotFoundError as e:
        raise DataError(f"{path}: there is no such file. Check the path.") from e
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}.") from e
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError) as e:
        raise DataError(f"{path} cannot be decompressed: {e}. The file is damaged; fetch it again.") from e


def _raw(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece


def _windows(path: Path, file: IO[bytes], max_ratio: int) -> Iterator[bytes]:
    window, n_out, n_in = [], 0, 0
    for fed, piece in _decompressed(path, file):
        window.append(piece)
        n_out += len(piece)
        n_in += fed
        if n_out >= WINDOW_BYTES:
            if n_out > max_ratio * n_in:
                raise DataError(
                    f"{path} grows more than {max_ratio} times when decompressed: it looks like a compression bomb. "
                    f"If it is yours, decompress it yourself and give the plain file."
                )
            yield b"".join(window)
            window, n_out, n_in = [], 0, 0
    if window:
        yield b"".join(window)


def _decompressed(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(bytes fed, bytes out) step by step, over all members of the file."""
    suffix = suffix_of(path)
    head = file.peek(6)[:6] if hasattr(file, "peek") else b""
    if head and not head.startswith(MAGIC[suffix]):
        raise DataError(f"{path} is named {suffix}, but its bytes are not of that kind. Give it its right name.")
    member = _new(suffix)
    while fed := file.read(FEED_BYTES):
        data = fed
        while data:
            if member.eof:
                if not data.strip(b"\x00"):  # padding after the last member
                    break
                member = _new(suffix)
            yield len(data), member.decompress(data)
            data = member.unused_data if member.eof else b""
    if not member.eof:
        raise DataError(f"{path} ends in the middle of its compressed data: it was cut. Fetch it again.")


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, compressed by its name; on a clean exit it replaces `path`, else nothing is left."""
    aside = path.with_name(path.name + ASIDE)
    if not path.parent.is_dir():
        raise DataError(f"{path}: its folder does not exist. Make the folder first.")
    with disk_errors(str(path)):
        try:
            with aside.open("wb") as raw:
                with _compressor(raw, suffix_of(path)) as out:
                    yield out
                raw.flush()
                os.fsync(raw.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _compressor(raw: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    if suffix == ".gz":  # no name and no time in the header: equal content has equal bytes
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as out:
            yield out  # type: ignore[misc]
    elif suffix == ".xz":
        with lzma.LZMAFile(raw, "wb") as out:
            yield out
    elif suffix == ".zst":
        with zstandard.ZstdCompressor(write_checksum=True).stream_writer(raw, closefd=False) as out:
            yield out
    else:
        yield raw
