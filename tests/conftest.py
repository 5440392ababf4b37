"""What every test may rely on: one thread, so that a busy machine gives the same speed and the same sums."""

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# Read by torch and numpy when they are first imported, here and in the processes that tests start. Importing torch
# here instead would make every test of a room without torch wait for it.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TUTELAGE_DEVICE"] = "cpu"  # what `auto` means, also beside a GPU: tests name the device they want
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the network
if "torch" in sys.modules:  # a plugin was faster
    sys.modules["torch"].set_num_threads(1)

hypothesis.settings.register_profile("tutelage", deadline=None)  # milliseconds say nothing on a busy machine
hypothesis.settings.load_profile("tutelage")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data` beside the checkout: public preference data that is not shipped."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED / 'data'} is not here: it holds public data that is not shipped")
    return SHARED / "data"


POSTGRES = "TUTELAGE_TEST_POSTGRES"  # postgresql+psycopg://user@host/database of a server, free to create more


def _as_postgres(*command: str) -> str:
    """What went wrong, or nothing. PostgreSQL refuses to run as root, so root runs it as its own user."""
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*user, *command], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    return f"{Path(command[0]).name} failed: {done.stderr.strip()[-300:]}" if done.returncode else ""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL: the one that is named, or one of the tests' own from the programs of the system, in a
    temporary folder and reached through a socket there: no port, no password, gone when the tests end.
    """
    if os.environ.get(POSTGRES):
        yield os.environ[POSTGRES]
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if not found:
        pytest.skip(f"{POSTGRES} names no server, and none is installed here (Debian: apt-get install postgresql)")
    programs = found[-1].parent
    folder = tempfile.mkdtemp(prefix="tutelage-pg.", dir="/tmp")  # the path of a socket is short: about 100 characters
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    cluster, options = f"{folder}/data", f"-F -c listen_addresses='' -c unix_socket_directories='{folder}'"
    create = ("-D", cluster, "-U", "tutelage", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    wrong = _as_postgres(f"{programs}/initdb", *create) or _as_postgres(
        f"{programs}/pg_ctl", "-D", cluster, "-l", f"{folder}/log", "-w", "-o", options, "start"
    )
    try:
        if wrong:
            pytest.skip(f"PostgreSQL is installed but did not start: {wrong}")
        yield f"postgresql+psycopg://tutelage@/postgres?host={folder}"
    finally:
        _as_postgres(f"{programs}/pg_ctl", "-D", cluster, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if any("card" in getattr(item, "fixturenames", ()) for item in items):
        _card().register()  # before the first backward pass, at which torch counts the devices for good
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _card() -> ModuleType:
    name, path = "tests_card", Path(__file__).parent / "card.py"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def card() -> Iterator[ModuleType]:
    """A device that is not the processor (`card.py`)."""
    module = _card()
    if not module.is_in_torch():
        pytest.skip("this version of torch knows no devices that are written in Python")
    with module.inserted():
        yield module


LINES = [
    "Is the pool open today? Yes, the pool is open until eight.",
    "Where is the kettle? The kettle is on the blue shelf by the window.",
    "Can I move my booking? Of course. Which day suits you?",
    "Hello there, how are you? I am well, thank you.",
] * 3
KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
GROUPED = {"num_key_value_heads": 2}  # four query heads, two key heads


@pytest.fixture(scope="session")
def _bpe_folder(tmp_path_factory):
    """A byte-level BPE of 320 tokens on disk, so that each test reads one of its own."""
    from tutelage.model.tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(LINES, 320).save_pretrained(str(folder))
    return folder


@pytest.fixture
def small_tokenizer(_bpe_folder):
    """A tokenizer of 320 tokens with the turn tokens: 0 pads, 1 ends."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_bpe_folder)


@pytest.fixture
def small_chat(small_tokenizer):
    from tutelage.model.chat import Chat

    return Chat(small_tokenizer, window=96, source="small")


@pytest.fixture(scope="session")
def small_hf():
    """(kind, **settings) -> a plain `transformers` model: 2 layers, width 32, large weights, 336 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(kind="llama", *, seed=0, **settings):
        shape = {
            "vocab_size": 336, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 96, "bos_token_id": None, "eos_token_id": 1,
            "pad_token_id": None,
        }  # fmt: skip
        if kind in ("llama", "mistral", "qwen2", "qwen3"):
            shape |= GROUPED
        if kind == "qwen3":
            shape["head_dim"] = 8
        config = AutoConfig.for_model(kind, **(shape | settings))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
            # At the usual start of 0.02 all positions look alike, and a leak would hide in the rounding.
            for p in model.parameters():
                p.data.add_(torch.randn_like(p), alpha=0.25)
        return model

    return make


@pytest.fixture(scope="session")
def small_causal(small_hf):
    """The same as a `CausalModel` on our attention."""
    from tutelage.model.attention import NAME
    from tutelage.model.causal import CausalModel

    def make(kind="llama", **settings):
        hf = small_hf(kind, **settings)
        hf.set_attn_implementation(NAME)
        return CausalModel(hf)

    return make


@pytest.fixture
def passes(monkeypatch):
    """How many tokens each pass of a prompt computed, where the native kernels run."""
    from tutelage.model.causal import CausalModel
    from tutelage.native import kernels

    if not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")
    tokens, logits = [], CausalModel.logits
    monkeypatch.setattr(
        CausalModel, "logits", lambda self, token_N, *a: (tokens.append(len(token_N)), logits(self, token_N, *a))[1]
    )
    return tokens


@pytest.fixture
def small_folder(small_hf, small_tokenizer, tmp_path):
    """(kind, **settings) -> a model folder as anybody's `save_pretrained` writes it."""

    def make(kind="llama", *, name="model", **settings):
        folder = tmp_path / name
        small_hf(kind, **settings).save_pretrained(folder)
        small_tokenizer.save_pretrained(str(folder))
        return folder

    return make


@pytest.fixture
def ask():
    """Words -> a prompt of one user turn."""
    from tutelage.types import Message, Prompt

    return lambda words: Prompt(messages=(Message(role="user", content=words),))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; without the right to mount one, a limit of 64 KiB on every file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode == 0:
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def small_reward_folder(small_causal, small_chat, tmp_path):
    """(seed) -> the folder of a published reward model that has learned nothing."""
    from tutelage.model.reward_model import RewardModel, save_reward

    def make(seed=0):
        folder = tmp_path / f"reward-{seed}"
        model = RewardModel(small_causal(seed=seed), small_chat, seed=seed)
        save_reward(folder, model, lineage={"stage": "reward", "weights": f"{seed}" * 12}, card={}, probes=[])
        return folder

    return make


@pytest.fixture
def small_run(small_causal, small_chat, tmp_path):
    """A run directory with three published policies: base, sft and the PPO of round 1."""
    from tutelage.model.checkpoint import save_causal, weights_sha

    folder = tmp_path / "run"
    for seed, (name, stage) in enumerate([("base", "base"), ("sft", "sft"), ("round-1/ppo", "ppo")]):
        model = small_causal(seed=seed)
        save_causal(folder / name, model, small_chat, {"stage": stage, "weights": weights_sha(model.hf.state_dict())})
    (folder / "config.toml").write_text("", encoding="utf-8")
    return folder
