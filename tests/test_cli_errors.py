"""Bad input from the command line: one line that names what is wrong and what to do, exit status 2, no traceback."""

import json
import shutil
from pathlib import Path

import pytest

import nait_fast
from tests.commands import run, shell
from tests.conftest import make_rows, make_tokenizer, rewrite_weights, write_jsonl

# The arguments of a select, an index, a signature and a rank that would run. A name in braces is a path in `world`.
SELECT = "select --model {MODEL} --dataset {POOL} --target sums={TARGET} --output {OUT}"
INDEX = "index --model {MODEL} --dataset {POOL} --output {OUT}"
SIGNATURE = "signature --model {MODEL} --target sums={TARGET} --codebook {WHOLE} --output {OUT}"
RANK = "rank --index {WHOLE} --signature {SUMS} --output {OUT}"


def without_a_layers_mlp(name: str) -> str | None:
    return None if "layers.1.mlp" in name else name


def other_models(folder: Path) -> dict[str, Path]:
    """Models that cannot be used: experts of their own kind, an unknown family, and damaged copies of none."""
    from transformers import BertConfig, BertModel, JetMoeConfig, JetMoeForCausalLM

    small = {"vocab_size": 458, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    experts = JetMoeForCausalLM(JetMoeConfig(**small, num_key_value_heads=1, kv_channels=8, num_local_experts=2))
    bert = BertModel(BertConfig(**small, num_attention_heads=2))
    for name, model in (("experts", experts), ("bert", bert)):
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return {"EXPERTS": folder / "experts", "BERT": folder / "bert"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model: str) -> dict[str, str]:
    """Good and bad models, pools, targets, indexes and signatures by name."""
    folder = tmp_path_factory.mktemp("world")
    rows = make_rows(40)
    paths = {
        "MODEL": Path(tiny_model),
        "POOL": write_jsonl(folder / "pool.jsonl", rows),
        "TARGET": write_jsonl(folder / "sums.jsonl", make_rows(12, seed=1)),
        "SINGLE": write_jsonl(folder / "single.jsonl", rows[:1]),
        "EMPTY": write_jsonl(folder / "empty.jsonl", []),
        "KEYLESS": write_jsonl(folder / "keyless.jsonl", [{"foo": "a", "bar": "b"}]),
        "MOVED": write_jsonl(folder / "moved.jsonl", rows[:39]),
        "OUT": folder / "out",
        "FILE": write_jsonl(folder / "file", rows[:1]),
        **other_models(folder),
    }
    lines = paths["POOL"].read_text().splitlines()
    paths["BROKEN"] = folder / "broken.jsonl"
    paths["BROKEN"].write_text("\n".join([*lines[:20], '{"instruction": "cut', *lines[20:]]))
    for name, spoil in {
        "NOCONFIG": lambda f: (f / "config.json").unlink(),
        "BADCONFIG": lambda f: (f / "config.json").write_text("{"),
        "NOWEIGHTS": lambda f: (f / "model.safetensors").unlink(),
        "CUTWEIGHTS": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "LACKING": lambda f: rewrite_weights(f, without_a_layers_mlp),
        "ADAPTER": lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}'),
        "NOTOKENIZER": lambda f: [file.unlink() for file in f.glob("*token*")],
    }.items():
        paths[name] = Path(shutil.copytree(tiny_model, folder / name))
        spoil(paths[name])
    common = {"dataset": paths["POOL"], "calibration_size": 20, "shard_rows": 15}
    target = [f"sums={paths['TARGET']}"]
    for name, own in {"WHOLE": {}, "ALPACA": {"template": "alpaca"}, "LAYER": {"layers": "1"}}.items():
        options = {"model": tiny_model, **own}
        paths[name] = folder / name
        nait_fast.build_index(output=paths[name], **common, **options)
        nait_fast.build_signature(target=target, codebook=paths[name], output=folder / f"{name}-sums", **options)
        paths[f"{name}SUMS"] = folder / f"{name}-sums" / "sums.safetensors"
    paths["SUMS"] = paths.pop("WHOLESUMS")
    nait_fast.build_index(model=tiny_model, output=folder / "other", **{**common, "calibration_size": 30})
    for name, own in {
        "OTHER": {"codebook": folder / "other"},
        "NAIT": {"method": "nait"},
        "NAG": {"method": "nag:5"},
    }.items():
        nait_fast.build_signature(model=tiny_model, target=target, output=folder / f"{name}-sums", **own)
        paths[f"{name}SUMS"] = folder / f"{name}-sums" / "sums.safetensors"
    for name, spoil in {
        "CUT": lambda f: f.write_bytes(f.read_bytes()[:-20]),
        "GONE": lambda f: f.unlink(),
        "FLIPPED": lambda f: f.write_bytes(f.read_bytes()[:-1] + bytes([f.read_bytes()[-1] ^ 1])),
        "UNFINISHED": lambda f: (f.parent / "manifest.json").unlink(),
    }.items():
        paths[name] = Path(shutil.copytree(paths["WHOLE"], folder / name))
        spoil(paths[name] / "shard-00001.safetensors")
    return {name: str(path) for name, path in paths.items()}


# (command, what its error says)
CASES = [
    # pools and targets
    (SELECT.replace("{POOL}", "nowhere.jsonl"), "nowhere.jsonl: no such file or folder; check the path"),
    (SELECT.replace("{POOL}", "{EMPTY}"), "{EMPTY}: holds no rows"),
    (SELECT.replace("{POOL}", "{BROKEN}"), "{BROKEN}:21: not JSON"),
    (SELECT.replace("{POOL}", "{KEYLESS}"), "{KEYLESS}:1: no known format"),
    (SELECT + " --format sharegpt", '{POOL}:1: no key "conversations"'),
    (SELECT + " --format parquet", "--format parquet: no such format"),
    (SELECT.replace("={TARGET}", "={EMPTY}"), "{EMPTY}: holds no rows"),
    (SELECT.replace("={TARGET}", "=nowhere.json"), "nowhere.json: no such file"),
    (SELECT.replace("={TARGET}", "={BROKEN}"), "{BROKEN}:21: not JSON"),
    (SELECT.replace("={TARGET}", "={SINGLE}"), "{SINGLE} has one sample; a target needs at least 2"),
    (SELECT + " --target sums={POOL}", "the name 'sums' is there twice; write NAME=FILE"),
    (SELECT + " --target a/b=c=d", "write NAME=FILE"),
    (SELECT + " --target x=", "write NAME=FILE"),
    (SELECT.replace("--target sums={TARGET}", ""), "--target is missing"),
    (SELECT.replace("--model {MODEL}", ""), "--model is missing"),
    # models
    (SELECT.replace("{MODEL}", "{NOCONFIG}"), "--model {NOCONFIG}: the folder has no config.json"),
    (SELECT.replace("{MODEL}", "{BADCONFIG}"), "--model {BADCONFIG}: cannot be loaded"),
    (SELECT.replace("{MODEL}", "{NOWEIGHTS}"), "--model {NOWEIGHTS}: cannot be loaded"),
    (SELECT.replace("{MODEL}", "{CUTWEIGHTS}"), "--model {CUTWEIGHTS}: cannot be loaded"),
    (SELECT.replace("{MODEL}", "{LACKING}"), "--model {LACKING}: the checkpoint lacks 3 weights"),
    (SELECT.replace("{MODEL}", "{ADAPTER}"), "--model {ADAPTER}: an adapter of some/base"),
    (SELECT.replace("{MODEL}", "{NOTOKENIZER}"), "cannot load a tokenizer from {NOTOKENIZER}"),
    (SELECT.replace("{MODEL}", "./nowhere"), "--model ./nowhere: no model folder"),
    (SELECT.replace("{MODEL}", "./nowhere.gguf"), "--model ./nowhere.gguf: no such file"),
    (SELECT.replace("{MODEL}", "{EXPERTS}"), "mixture of experts of its own kind (JetMoe"),
    (SELECT.replace("{MODEL}", "{BERT}"), "no MLP of a known family"),
    (SELECT + " --tokenizer ./nowhere", "./nowhere"),
    (SELECT + " --layers 3", "--layers 3: '3' does not lie in this model's 3 layers"),
    (SELECT + " --layers first", "'first' is no layer or range"),
    (SELECT + " --device tpu7", "--device tpu7: not usable here"),
    (SELECT + " --device cuda:99", "--device cuda:99: not usable here"),
    # outputs
    (SELECT.replace("{OUT}", "{FILE}"), "--output {FILE}: cannot be written to (File exists)"),
    (SELECT.replace("{OUT}", "{FILE}/out"), "cannot be written to (Not a directory)"),
    (SELECT.replace("{OUT}", "{WHOLE}"), "--output {WHOLE}: holds an index or something else"),
    (RANK.replace("{OUT}", "{WHOLE}"), "--output {WHOLE}: holds an index or something else"),
    (RANK.replace("--output {OUT}", ""), "--output is missing"),
    (INDEX.replace("{OUT}", "{WHOLE}"), "{WHOLE}: holds an index made otherwise"),
    # budgets and options
    (SELECT + " --fraction 0.1 --top-k 3", "--fraction and --top-k: give one budget only"),
    (SELECT + " --fraction 0", "--fraction 0.0: must be above 0 and at most 1"),
    (SELECT + " --fraction 10", "--fraction 10.0: must be above 0 and at most 1; write 0.1 for 10%"),
    (SELECT + " --fraction nan", "--fraction nan: must be above 0"),
    (SELECT + " --top-k 41", "--top-k 41: the pool has only 40 usable samples"),
    (SELECT + " --top-k 0", "--top-k 0: must be at least 1"),
    (SELECT + " --token-budget 1", "--token-budget 1: below the first sample's"),
    (SELECT + " --token-budget -5", "--token-budget -5: must be at least 1"),
    (RANK + " --top-k 41", "--top-k 41: the pool has only 40"),
    (RANK + " --token-budget 1", "--token-budget 1: below"),
    (SELECT + " --method contrast:planes=1", "--method contrast:planes=1: planes: must be at least 2"),
    (SELECT + " --planes 13", "--method contrast:planes=13: planes: must be at most 12"),
    (SELECT + " --max-length 0", "--max-length 0: must be at least 1"),
    (SELECT + " --batch-tokens 0", "--batch-tokens 0: must be at least 1"),
    (SELECT + " --calibration-size 1", "--calibration-size 1: must be at least 2"),
    (SELECT + " --seed -1", "--seed -1: must be at least 0"),
    (SELECT + " --method nag:73", "--method nag:top_k=73: the model's layers have only 72 neurons"),
    (SELECT + " --method nag --reading mean", "--reading: method nag has a reading of its own"),
    (SELECT + " --method best", "--method best: choose contrast, nait, nag, embed"),
    (SELECT + " --top-k many", "argument --top-k: invalid int value: 'many'"),
    (SELECT + " --colour red", "unrecognized arguments: --colour red (nait-fast select --help lists the options)"),
    ("frobnicate", "invalid choice: 'frobnicate'"),
    ("help frobnicate", "invalid choice: 'frobnicate'"),
    # signatures and indexes
    (SIGNATURE.replace("--codebook {WHOLE}", ""), "--codebook is missing: method contrast needs the index"),
    (SIGNATURE.replace("{WHOLE}", "{ALPACA}"), "--codebook {ALPACA}: made with another template"),
    (SIGNATURE.replace("{WHOLE}", "{SUMS}"), "{SUMS}: is no nait_fast codebook"),
    (SIGNATURE + " --method nait:sign=contrast --codebook nowhere", "nowhere: no such file"),
    (
        SIGNATURE.replace("--codebook {WHOLE}", "--method nait:sign=contrast"),
        "--method nait:sign=contrast: needs a --codebook",
    ),
    (RANK.replace("{SUMS}", "nowhere"), "nowhere: no such file"),
    (RANK.replace("{SUMS}", "{POOL}"), "{POOL}: is no signature; make one"),
    (RANK.replace("{SUMS}", "{LAYERSUMS}"), "signature 'sums' was made with another layers"),
    (RANK.replace("{SUMS}", "{ALPACASUMS}"), "signature 'sums' was made with another template"),
    (RANK.replace("{SUMS}", "{OTHERSUMS}"), "signature 'sums' was made with another codebook"),
    (RANK.replace("{SUMS}", "{NAITSUMS}"), "holds no exact scores of nait signature 'sums'"),
    (RANK.replace("{SUMS}", "{NAGSUMS}"), "signature 'sums' (nag) does not fit codec neuron"),
    (RANK.replace("{SUMS}", "{SUMS} {SUMS}"), "two signatures have the name 'sums'"),
    (INDEX + " --exact {SUMS}", "--exact: signature 'sums' is of method contrast; only nait"),
    (INDEX + " --exact {NAITSUMS} {NAITSUMS}", "--exact: two signatures have the name 'sums'"),
    (INDEX + " --exact {NAITSUMS} --template alpaca", "signature 'sums' was made with another template"),
    (
        INDEX + " --exact {NAITSUMS} --first-token include",
        "signature 'sums' was made with another first_token ('exclude')",
    ),
    (RANK.replace("{WHOLE}", "nowhere"), "nowhere: no such index folder"),
    (
        RANK.replace("{WHOLE}", "{UNFINISHED}"),
        "{UNFINISHED}: no manifest.json: not an index, or one that is not finished",
    ),
    (RANK.replace("{WHOLE}", "{CUT}"), "{CUT}/shard-00001.safetensors"),
    (RANK.replace("{WHOLE}", "{GONE}"), "{GONE}/shard-00001.safetensors: no such file"),
    (RANK + " --dataset {MOVED}", "{MOVED}: is not the data that index {WHOLE} was made from"),
    (RANK + " --dataset nowhere.jsonl", "if it has moved, pass --dataset"),
    # inspect and verify
    ("verify nowhere", "nowhere: no such folder"),
    ("verify {CUT}", "truncated or damaged; rebuild it"),
    ("verify {FLIPPED}", "{FLIPPED}/shard-00001.safetensors: its bytes have changed"),
    (
        "verify {UNFINISHED}",
        "{UNFINISHED}: no manifest.json: neither an index nor a selection, or one that is not finished",
    ),
    ("verify {POOL}", "{POOL}: is a file: name the folder of an index or a selection"),
    ("inspect nowhere", "nowhere: no such file or folder"),
    ("inspect {KEYLESS}", "{KEYLESS}: not one of its 1 rows can be used"),
    ("inspect {CUT}/shard-00000.safetensors", "is no nait_fast signature"),
]


@pytest.mark.parametrize(("command", "words"), CASES, ids=[f"{c.split(' ')[0]}: {w}" for c, w in CASES])
def test_one_line_and_status_2(capsys, world: dict[str, str], command: str, words: str) -> None:
    shutil.rmtree(world["OUT"], ignore_errors=True)
    error = run(capsys, *command.format(**world).split()).error
    assert words.format(**world) in error
    assert not (Path(world["OUT"]) / "manifest.json").exists()


def test_a_signature_of_another_model(capsys, world: dict[str, str], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    other = Path(shutil.copytree(world["MODEL"], tmp_path / "other"))
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.get_input_embeddings().weight += 0.1
    model.save_pretrained(other)
    words = SIGNATURE.format(**{**world, "MODEL": other, "OUT": tmp_path}).split()
    assert "made with another model (or configuration)" in run(capsys, *words).error
    nait = [word for word in words if word not in ("--codebook", world["WHOLE"])]
    assert run(capsys, *nait, "--method", "nait").status == 0
    words = INDEX.format(**{**world, "OUT": tmp_path / "index"}).split()
    error = run(capsys, *words, "--exact", tmp_path / "sums.safetensors").error
    assert "signature 'sums' was made with another model" in error and "rebuild it" in error


BAD_YAML = [
    ("fraction: 0.1\ncolour: red\n", "unknown option 'colour'; known are address, batch_tokens,"),
    ("1: 2\nx: 3\n", "unknown option '1'"),
    ("fraction: [0.1\n", "cannot be read (while parsing"),
    ("- fraction\n", "must be a mapping of options"),
    ("!!python/object/apply:os.system ['true']\n", "cannot be read (could not determine a constructor"),
    ("method: best\n", "--method best: choose contrast, nait, nag"),
    ("top_k: '5'\n", "--top-k 5: must be a whole number, not str"),
    ("top_k: 5.0\n", "--top-k 5.0: must be a whole number, not float"),
    ("top_k: true\n", "--top-k True: must be a whole number, not bool"),
    ("top_k: 0\n", "--top-k 0: must be at least 1"),
    ("fraction: tenth\n", "--fraction tenth: must be a number, not str"),
    ("fraction: 3\n", "--fraction 3.0: must be above 0"),
    ("planes: 99\n", "--method contrast:planes=99: planes: must be at most 12"),
    ("template: 3\n", "--template 3: must be text, not int; write it in quotes"),
    ("template_date: 2024-07-26\n", "--template-date 2024-07-26: must be text, not date; write it in quotes"),
    ("roles: [a: user]\n", "--roles [{'a': 'user'}]: must be text, not dict"),
    ("template:\n", "--template None: must be text, not NoneType"),
    ("skip_bad_rows: 'no'\n", "--skip-bad-rows no: must be true or false, not str"),
    ("target: {sums: file}\n", "--target {'sums': 'file'}: must be text, not dict"),
    ("target: [1]\n", "--target [1]: must be text, not int"),
    ("output: [a, b]\n", "--output ['a', 'b']: must be text, not list"),
]


@pytest.mark.parametrize(("text", "words"), BAD_YAML, ids=[words for _, words in BAD_YAML])
def test_bad_config(capsys, world: dict[str, str], tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    given = SELECT.format(**world).split()
    for flag in ("target", "output"):  # flags win: leave the one out that the file has
        if text.startswith(flag):
            del given[given.index(f"--{flag}") : given.index(f"--{flag}") + 2]
    assert words in run(capsys, *given, "--config", tmp_path / "c.yaml").error


def test_config_that_cannot_be_read(capsys, world: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "c.yaml"):
        error = run(capsys, *SELECT.format(**world).split(), "--config", path).error
        assert error.startswith(f"--config {path}: cannot be read")


def test_debug_shows_the_traceback(world: dict[str, str]) -> None:
    ran = shell("inspect", "nowhere", "--debug")
    assert ran.status == 1 and "Traceback" in ran.err and "errors.BadInput" in ran.err


@pytest.mark.parametrize("model", ["no-such-organisation/no-such-model", "{NOTOKENIZER}"])
def test_as_a_user_sees_it(world: dict[str, str], model: str) -> None:
    words = SELECT.format(**{**world, "MODEL": model.format(**world)}).split()
    assert model.format(**world) in shell(*words).error


def test_a_row_that_the_template_refuses(capsys, world: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world["MODEL"], tmp_path / "strict"))
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no\nsystem') }}{% endif %}"
    make_tokenizer(template + "{{ m['content'] }}<|end|>{% endfor %}").save_pretrained(folder)
    turns = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "a dog"}]
    pairs = ((("user", r["instruction"]), ("assistant", r["output"])) for r in make_rows(20))
    rows = [{"messages": [{"role": role, "content": text} for role, text in pair]} for pair in pairs]
    pool = write_jsonl(tmp_path / "pool.jsonl", [*rows, {"messages": [{"role": "system", "content": "x"}, *turns]}])
    words = SELECT.format(**{**world, "MODEL": folder, "POOL": pool, "OUT": tmp_path / "out"}).split()
    assert f"{pool}:21: the chat template refuses it: no; fix the row" in run(capsys, *words).error
    result = run(capsys, *words, "--output", tmp_path / "skipped", "--skip-bad-rows", "--json").summary
    assert result["rows_skipped"]["reasons"] == {"the chat template refuses it: no": 1}
    target = write_jsonl(tmp_path / "target.jsonl", [*rows, json.loads(pool.read_text().splitlines()[-1])])
    write_jsonl(pool, rows)
    words = SELECT.format(**{**world, "MODEL": folder, "POOL": pool, "OUT": tmp_path / "t", "TARGET": target}).split()
    assert f"{target} row 20: the chat template refuses it: no" in run(capsys, *words).error
