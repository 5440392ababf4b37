"""Compiling on first use: kept for the next time, published whole, and left out with one line where it cannot be."""

import os
import subprocess
import sys

import pytest

from tutelage.native import build

FLAGS = ("-O0", "-std=c++17", "-shared", "-fPIC")


@pytest.fixture
def fresh(monkeypatch, tmp_path, capsys):
    """An empty cache and a `library` that has not been asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "library", build.functools.cache(build.library.__wrapped__))
    return build


@pytest.fixture
def calls(monkeypatch):
    """Every command line that is run."""
    seen = []
    run = subprocess.run

    def counted(command, **kw):
        seen.append(command)
        return run(command, **kw)

    monkeypatch.setattr(build.subprocess, "run", counted)
    return seen


def compiled(calls):
    return sum("-o" in c for c in calls)


def test_a_library_is_compiled_once_and_only_for_us(fresh, calls, tmp_path):
    compiler, folder = build.find_compiler(), build.cache_folder()
    build.build(compiler, FLAGS, folder)
    build.build(compiler, FLAGS, folder)
    assert compiled(calls) == 1
    assert folder == tmp_path / "tutelage" / "native"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [p.suffix for p in folder.iterdir()] == [".so"]  # nothing half done is left


def test_other_flags_sources_or_processors_are_other_libraries(monkeypatch):
    compiler = build.find_compiler()
    keys = {build._key(compiler, FLAGS), build._key(compiler, (*FLAGS, "-O1"))}
    monkeypatch.setattr(build, "_processor", lambda: "another")
    keys.add(build._key(compiler, FLAGS))
    monkeypatch.setattr(build, "HEADERS", ())
    keys.add(build._key(compiler, FLAGS))
    assert len(keys) == 4


def test_the_switch_turns_them_off_without_a_word(fresh, monkeypatch, calls, capsys):
    monkeypatch.setenv(build.SWITCH, "0")
    assert fresh.library() is None
    assert not calls and not capsys.readouterr().err


def test_without_a_compiler_one_line_says_so_once(fresh, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert fresh.library() is None and fresh.library() is None
    assert capsys.readouterr().err.count("native kernels are off: no C++ compiler") == 1


def test_a_compiler_that_fails_is_named_with_its_reason(fresh, monkeypatch, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'out of registers' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert fresh.library() is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{broken} failed: out of registers" in said


def test_a_library_that_the_system_gives_no_tiles_is_not_used(fresh, monkeypatch):
    class Refused:
        def prepare(self):
            return 1

    monkeypatch.setattr(build.ctypes, "CDLL", lambda path: Refused())
    with pytest.raises(build.BuildError, match="tile registers"):
        build.build(build.find_compiler(), FLAGS, build.cache_folder())


def test_two_processes_at_once_both_get_it(tmp_path):
    code = (
        "from tutelage.native import build\n"
        f"assert build.build(build.find_compiler(), {FLAGS!r}, build.cache_folder()).prepare() == 0"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    assert len(list((tmp_path / "tutelage" / "native").iterdir())) == 1


@pytest.mark.parametrize("flags", build.FLAGS[1:])
def test_every_spelling_of_the_product_gives_the_same(flags, fresh, monkeypatch):
    # Tiles, bf16 dot products and plain loops differ in the order of their sums alone.
    import torch

    from tutelage.native import kernels

    half = torch.randn(70, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = kernels.weight_gradient(half, half)
    other = build.build(build.find_compiler(), flags, build.cache_folder())
    monkeypatch.setattr(kernels, "library", lambda: other)
    torch.testing.assert_close(kernels.weight_gradient(half, half), expected, atol=1e-4, rtol=1e-5)
