"""Errors have a class and fields, survive the way between processes, and nobody reads their line again."""

import ast
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nait_fast
from nait_fast import errors
from nait_fast.data.formats import RowError
from nait_fast.data.json_rows import _NotJson
from nait_fast.data.pool import Pool
from nait_fast.data.streams import TooLong, import_optional
from nait_fast.errors import BadInput, Busy, Damaged, Mismatch, MissingExtra, NaitError, first_line, missing_extra
from nait_fast.index.reader import Index
from nait_fast.index.verify import problems_of
from nait_fast.methods.signature import load_signature
from nait_fast.ranking.sources import check_index
from nait_fast.storage.names import SKIPPED, shard_name
from tests.conftest import write_jsonl
from tests.index.made import make

PACKAGE = Path(nait_fast.__file__).parent
KINDS = (NaitError, BadInput, Mismatch, Damaged, Busy, MissingExtra, TooLong, _NotJson)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "it is"),
        ({"where": Path("a/b")}, "a/b: it is"),
        ({"where": "--flag", "remedy": "leave it out"}, "--flag: it is; leave it out"),
        ({"remedy": "rebuild it", "join": ": "}, "it is: rebuild it"),
        ({"where": "f", "note": "and 2 more problems"}, "f: it is (and 2 more problems)"),
        ({"where": "f", "remedy": "mend it", "note": "of i"}, "f: it is; mend it (of i)"),
    ],
)
def test_the_line_is_made_of_the_fields(fields: dict[str, str], line: str) -> None:
    error = NaitError("it is", **fields)
    assert str(error) == line and error.args == (line,)
    assert (error.where, error.what) == (str(fields.get("where", "")), "it is")
    assert (error.remedy, error.note) == (fields.get("remedy", ""), fields.get("note", ""))


@pytest.mark.parametrize("kind", KINDS)
def test_through_a_pickle(kind: type[NaitError]) -> None:
    error = kind("it is", where="f", remedy="mend it", note="of i", join=": ")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind and str(twin) == str(error) == "f: it is: mend it (of i)" and vars(twin) == vars(error)
    assert str(twin.replace(remedy="")) == "f: it is (of i)"


def test_replace_leaves_the_error_as_it_was() -> None:
    error = missing_extra("ray", "ray", "needs Ray", "--engine ray")
    try:
        raise error from ValueError("x")
    except MissingExtra as caught:
        other = caught.replace(note="here")
    assert str(error) == '--engine ray: needs Ray: pip install "nait-fast[ray]"' and str(other) == f"{error} (here)"
    assert (other.package, other.extra, other.remedy) == ("ray", "ray", 'pip install "nait-fast[ray]"')
    assert other.__traceback__ is None and other.__cause__ is None


def test_every_kind_is_public_and_told_of() -> None:
    page = (PACKAGE.parent / "docs" / "api.md").read_text()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, NaitError):
            assert getattr(nait_fast, name) is kind and f"::: nait_fast.errors.{name}\n" in page


def test_they_cost_nothing_to_import() -> None:
    code = (
        "import sys, nait_fast.errors; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'json', 'typing_extensions')))"
    )
    assert subprocess.run([sys.executable, "-S", "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_lines_of_others() -> None:
    assert first_line(ValueError("\n  a   b\nc")) == "ValueError: a b" and first_line(KeyError()) == "KeyError"
    gone = FileNotFoundError(2, "No such file", "x")
    assert first_line(gone) == "FileNotFoundError: [Errno 2] No such file: 'x'"
    assert first_line(gone, kind=False) == "No such file"
    assert first_line(gone, kind=False, errno=True) == "[Errno 2] No such file: 'x'"
    assert first_line(RuntimeError(), kind=False) == "RuntimeError" and len(first_line(OSError("a" * 999))) < 220


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "index")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copy(whole.parent / "sums.safetensors", tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "index"))


def test_a_damaged_shard(folder: Path) -> None:
    file = folder / shard_name(1)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Damaged) as caught:
        nait_fast.verify(folder)
    (problem,) = problems_of(Index(folder))
    assert problem.where == caught.value.where == str(file) and problem.remedy == "rebuild it with index --repair"
    assert Index(folder).verify() == [str(problem)] == [str(caught.value)]
    assert problem.__traceback__ is None  # whose frames would keep the shard mapped
    file.unlink()
    with pytest.raises(Damaged, match="no such file"):
        list(Index(folder).shards())


def test_a_list_that_is_not_the_index_s_is_one_problem(folder: Path) -> None:
    """Whatever its folder is called."""
    odd = Path(folder.rename(folder.parent / SKIPPED))
    assert problems_of(Index(odd)) == []
    (odd / SKIPPED).write_bytes((odd / SKIPPED).read_bytes()[:-1])
    (problem,) = problems_of(Index(odd))
    assert isinstance(problem, Damaged) and problem.where == str(odd / SKIPPED)


def test_the_first_of_several_problems(folder: Path) -> None:
    for number in (0, 1):
        (folder / shard_name(number)).unlink()
    with pytest.raises(Damaged) as caught:
        nait_fast.verify(folder)
    assert caught.value.where == str(folder / shard_name(0)) and caught.value.note == "and 1 more problems"
    assert str(caught.value).endswith("(and 1 more problems)")


def test_a_signature_of_another_model(folder: Path) -> None:
    signature = load_signature(folder.parent / "sums.safetensors")
    signature.meta["layers"] = [0, 2]
    with pytest.raises(Mismatch) as caught:
        check_index(Index(folder), [signature])
    assert caught.value.remedy == "rebuild it with --layers 0,1" and str(caught.value).endswith(
        ": rebuild it with --layers 0,1"
    )


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra) as caught:
        import_optional("datasets", "a save_to_disk folder", "d", "datasets")
    assert (caught.value.where, caught.value.package, caught.value.extra) == ("d", "datasets", "datasets")
    assert str(caught.value) == 'd: a save_to_disk folder, needs datasets: pip install "nait-fast[datasets]"'


def test_a_bad_row(tmp_path: Path) -> None:
    pool = write_jsonl(
        tmp_path / "pool.jsonl", [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": 3}]
    )
    with pytest.raises(BadInput) as caught:
        Pool(pool).scan()
    assert caught.value.where == f"{pool}:2" and caught.value.what == '"output" is int, not a string'
    assert caught.value.remedy == "fix the row or pass --skip-bad-rows"


def test_a_pool_that_changes(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}] * 3
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", rows))
    pool.plan()
    write_jsonl(tmp_path / "pool.jsonl", rows[:2])
    with pytest.raises(Damaged) as caught:
        pool.scan()
    assert caught.value.where == str(tmp_path / "pool.jsonl")


def test_a_damaged_plan_has_its_own_remedy(folder: Path) -> None:
    file = folder / "plan-00.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rows": 11}))
    with pytest.raises(Damaged) as caught:
        nait_fast.verify(folder)
    assert (caught.value.where, caught.value.remedy) == (str(file), "delete it, it only spares reading the pool")


# What reads a text: methods of it, and functions that are given it.
READERS = {"strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "startswith"}
READERS |= {"endswith", "removeprefix", "removesuffix", "replace", "find", "rfind", "index", "rindex", "count"}
OURS = {kind.__name__ for kind in KINDS} | {RowError.__name__, "RowLeftOut"}


def caught_by(handler: ast.ExceptHandler) -> set[str]:
    """Names of the classes in an ``except``."""
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()


def spoken(node: ast.AST, errors: set[str], texts: set[str]) -> bool:
    """Whether an expression is the text of one of ``errors``, or one of ``texts``."""
    if isinstance(node, ast.Name):
        return node.id in texts
    if isinstance(node, ast.JoinedStr):
        values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return any(spoken(v, errors, texts) or (isinstance(v, ast.Name) and v.id in errors) for v in values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
        return any(isinstance(a, ast.Name) and a.id in errors for a in node.args)
    if isinstance(node, ast.Subscript | ast.IfExp | ast.BinOp | ast.BoolOp | ast.NamedExpr):
        return any(spoken(child, errors, texts) for child in ast.iter_child_nodes(node))
    if isinstance(node, ast.Attribute):  # error.args, error.what: a field is for telling, too
        return isinstance(node.value, ast.Name) and node.value.id in errors and node.attr in ("args", "what")
    return False


def readings(body: ast.AST, errors: set[str], texts: set[str]) -> Iterator[int]:
    """Lines in which the text of an error is searched, split, stripped or compared."""
    for node in ast.walk(body):  # breadth first: an assignment comes before what is made of it
        if isinstance(node, ast.Assign | ast.NamedExpr) and spoken(node.value, errors, texts):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            texts |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(body):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_text = node.func.attr in READERS and spoken(node.func.value, errors, texts)
            of_pattern = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
            given = node.func.attr in ("search", "match", "fullmatch", "findall", "sub", "finditer") or of_pattern
            if of_text or (given and any(spoken(argument, errors, texts) for argument in node.args)):
                yield node.lineno
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = any(isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq) for op in node.ops)
            if words and any(spoken(side, errors, texts) for side in sides):
                yield node.lineno


def handlers(tree: ast.Module) -> Iterator[ast.ExceptHandler]:
    """Those that may be handed an error of ours; whoever asks for NaitError first has only others' left."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                names = caught_by(handler)
                if handler.name and names & OURS:
                    yield handler
                if names & {"NaitError"}:
                    break


def test_no_module_reads_the_line_of_an_error() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.name != "errors.py"
        for handler in handlers(ast.parse(file.read_text()))
        for line in readings(ast.Module(handler.body, []), {handler.name or ""}, set())
    ]
    assert not found, found


@pytest.mark.parametrize(
    "body",
    [
        "return str(error).removesuffix('; rebuild it')",
        "why = str(error)\n    return 'damaged' in why",
        "return f'{error}'.startswith('x')",
        "return re.search('x', str(error))",
        "return error.args[0].partition(':')[0]",
        "if (why := str(error)) == 'x': pass",
        "return error.what.split()",
    ],
)
def test_that_test_sees(body: str) -> None:
    tree = ast.parse(f"try:\n    pass\nexcept NaitError as error:\n    {body}")
    (handler,) = handlers(tree)
    assert [*readings(ast.Module(handler.body, []), {"error"}, set())]


MEMORY = [
    MemoryError(),
    type("_ArrayMemoryError", (MemoryError,), {})("Unable to allocate 1.0 TiB for an array"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:83] data. DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB, other allocations: 4.00 KB)"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("miopenStatusAllocFailed"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("unable to mmap 512 bytes from file </dev/shm/x>: Cannot allocate memory (12)"),
]
OTHERS = [  # of a device these leave nothing to go on with
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),  # by then it is
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448."),
    RuntimeError("shape '[2, 3]' is invalid for input of size 7"),
    ValueError("out of memory"),
    IndexError("index out of range in self"),
    NaitError("no memory for one sample of 9 tokens"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", MEMORY, ids=repr)
def test_memory_that_ran_out(error: BaseException) -> None:
    assert errors.is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_what_is_not_memory(error: BaseException) -> None:
    assert not errors.is_out_of_memory(error)


def test_torchs_own_classes_for_memory() -> None:
    import torch

    assert errors.is_out_of_memory(torch.OutOfMemoryError()) and errors.is_out_of_memory(torch.cuda.OutOfMemoryError())
    accelerator = getattr(torch, "AcceleratorError", RuntimeError)
    assert errors.is_out_of_memory(accelerator("CUDA error: out of memory"))
    assert not errors.is_out_of_memory(accelerator("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert errors.is_out_of_memory(caught.value)
