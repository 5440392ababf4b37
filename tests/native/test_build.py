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


NO_DOTS = "-mno-avx512bf16"
SPELLINGS = {
    "dot products": (*build.PLAIN, *build.WIDE, *build.NO_TILES),
    "plain loops": (*build.PLAIN, *build.NO_TILES, *((NO_DOTS,) if build.NO_TILES else ())),
    "narrow vectors": build.FLAGS[-1],
    "no AVX512": (*build.PLAIN, *build.NO_TILES, *(("-mno-avx512f",) if build.NO_TILES else ())),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_product_gives_the_same(spelling, fresh, monkeypatch, small_causal):
    # Tiles, bf16 dot products and plain loops differ in the order of their sums alone.
    import torch

    from tutelage.engine.engine import Engine
    from tutelage.engine.request import Request, SamplingConfig
    from tutelage.native import kernels

    token_BT, length_B = torch.arange(5, 75).view(2, 35), torch.tensor([35, 20])
    mask_BT = torch.arange(35) < length_B[:, None]
    mask_BT[:, 0] = False
    ask = [Request((5, 6, 7), (1, 2, 3))]

    def everything():
        model = small_causal("qwen3")
        with torch.autocast("cpu", torch.bfloat16):
            logp_BT, _ = model.logp(token_BT, length_B, mask_BT)
        logp_BT.sum().backward()
        samples = Engine(model, end_id=1, window=96, precision="bf16").generate(ask, SamplingConfig(max_new_tokens=1))
        drawn = torch.tensor([s.logp for s in samples])
        return [logp_BT.detach(), drawn, *(p.grad for p in model.parameters())]

    usual = everything()
    other = build.build(build.find_compiler(), SPELLINGS[spelling], build.cache_folder())
    monkeypatch.setattr(kernels, "library", lambda: other)
    for a, b in zip(everything(), usual, strict=True):
        assert (a - b).norm() <= 0.02 * b.norm()
