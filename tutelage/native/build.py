"""Compiles the kernels on first use, keeps them for the next time, and opens them. Knows no tensor.

`TUTELAGE_NATIVE=0` switches them off; without a C++ compiler they are off, and one line says so.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tutelage.log import say

SWITCH = "TUTELAGE_NATIVE"
HERE = Path(__file__).parent
SOURCES = (
    "prepare.cpp", "crew.cpp", "norm.cpp", "linear.cpp", "attention.cpp", "head.cpp", "weight_gradient.cpp",
    "decode.cpp", "forward.cpp",
)  # fmt: skip
HEADERS = ("number.h", "crew.h", "tile.h", "linear.h", "rotate.h", "draw.h", "gelu.h", "norm.h", "attention.h",
           "decoder.h")  # fmt: skip
PLAIN = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fopenmp-simd", "-march=native")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
NO_TILES = ("-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8") if platform.machine() == "x86_64" else ()
# Tried in this order: a virtual machine may hide the tile registers, and a compiler may not know the wide flags.
FLAGS = ((*PLAIN, *WIDE), (*PLAIN, *WIDE, *NO_TILES), PLAIN)
TIMEOUT_S = 120


class BuildError(Exception):
    """Why these flags gave no usable library."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None when they are switched off or cannot be made here."""
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = find_compiler()
    if compiler is None:
        say("native kernels are off: no C++ compiler (g++, c++ or clang++) was found, so bf16 passes are slower.")
        return None
    why = ""
    for flags in FLAGS:
        try:
            return build(compiler, flags, cache_folder())
        except (BuildError, OSError) as e:
            why = why or (str(e).strip().splitlines() or [type(e).__name__])[0]
    say(f"native kernels are off, so bf16 passes are slower: {why}")
    return None


def find_compiler() -> str | None:
    """The path of `$CXX`, or of the first known compiler; g++ first: it was measured."""
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    return None


def cache_folder() -> Path:
    """Where libraries are kept; nobody else may write there, since what lies there is run."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "tutelage" / "native"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # fails when the folder is somebody else's
    return folder


def build(compiler: str, flags: tuple[str, ...], folder: Path) -> ctypes.CDLL:
    """Opens the library of these flags, compiled now unless it lies in the folder. Raises BuildError or OSError."""
    target = folder / f"{_key(compiler, flags)}.so"
    if not target.is_file():
        _compile(compiler, flags, target)
    opened = ctypes.CDLL(str(target))
    if opened.prepare() != 0:
        raise BuildError("the system gives no leave to use the processor's tile registers")
    return opened


def _compile(compiler: str, flags: tuple[str, ...], target: Path) -> None:
    """Writes beside the target and renames, so that two processes never see half a file."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as aside:
        half = Path(aside) / target.name
        command = [compiler, *flags, *(str(HERE / s) for s in SOURCES), "-o", str(half)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as e:
            raise BuildError(f"{compiler} took more than {TIMEOUT_S} s") from e
        if done.returncode:
            raise BuildError(f"{compiler} failed: {done.stderr.strip()[:300]}")
        os.replace(half, target)


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """A name that changes with everything that the machine code depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    texts = [(HERE / name).read_text(encoding="utf-8") for name in (*SOURCES, *HEADERS)]
    return hashlib.sha256("\0".join([*texts, *flags, version, _processor()]).encode()).hexdigest()[:32]


def _processor() -> str:
    """What -march=native looks at."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        lines = facts.read_text(encoding="utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()} {platform.processor()}"
