"""The package imports from a source tree, from a wheel and from an editable install, and leaves Hugging Face's
``kernels`` package alone. Each import runs in a process of its own, on an interpreter that sees the libraries but no
installed nait_fast; what is built is built from a copy, so that the tree stays as it is.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from nait_fast._version import __version__

ROOT = Path(__file__).resolve().parent.parent
OPS = ["capture", "bitpack", "popcount"]
HEAVY = ["torch", "transformers", "numba", "triton", "pyarrow"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]

# What transformers imports from ``kernels``: classes, and functions that make a decorator. Any name will do.
STAND_IN = """
class _Any(type):
    def __getattr__(cls, name):
        return cls

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Any(name, (), {"__new__": lambda cls, *args, **kwargs: lambda target: target})
"""

IMPORT_ALL = """
import importlib, json, sys
ops = [importlib.import_module("nait_fast.kernels." + op).__file__ for op in sys.argv[1:]]
from transformers import LlamaForCausalLM
try:
    import kernels
except ImportError:
    kernels = None
print(json.dumps({"ops": ops, "kernels": getattr(kernels, "__file__", None)}))
"""


def run(*command: str | Path, cwd: Path, path: list[Path] | None = None, **extra: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env = {**kept, **extra, "PYTHONPATH": os.pathsep.join(map(str, path or []))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_python(folder: Path) -> Path:
    """An interpreter that sees this one's libraries, but not the editable installs among them."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder).strip()
    libraries = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    Path(site, "libraries.pth").write_text("\n".join(libraries) + "\n")
    return python


def files_below(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def need_build_tools() -> None:
    missing = [name for name in ("pip", "setuptools", "build") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"building needs {' and '.join(missing)}")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an installation is made from."""
    copy = tmp_path_factory.mktemp("source") / "nait-fast"
    for folder in ("nait_fast", "kernels"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_python(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def release(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``make dist`` would fill: an sdist, and the wheel that is built from it."""
    need_build_tools()
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(release: Path) -> Path:
    (built,) = release.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that the wheel was installed into."""
    python = make_python(tmp_path_factory.mktemp("installed"))
    offline = [option for option in OFFLINE if option != "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *offline, wheel, cwd=wheel.parent)
    return python


@pytest.fixture(scope="module")
def editable_python(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with an editable install of ``source``."""
    need_build_tools()
    python = make_python(tmp_path_factory.mktemp("editable"))
    run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, "--editable", source, cwd=source)
    return python


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``kernels`` package of a release that the installed transformers takes."""
    transformers = pytest.importorskip("transformers.utils.import_utils")
    version = getattr(transformers, "KERNELS_MIN_VERSION", "0.9.0")
    folder = tmp_path_factory.mktemp("hugging_face")
    (folder / "kernels").mkdir()
    (folder / "kernels" / "__init__.py").write_text(STAND_IN)
    info = folder / f"kernels-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tree", "wheel", "editable"])
def test_ops_import_and_leave_hugging_face_alone(
    layout: str, elsewhere: Path, stand_in: Path, request: pytest.FixtureRequest
) -> None:
    python, cwd, path = request.getfixturevalue("bare_python"), elsewhere, []
    if layout == "tree":
        cwd = ours = ROOT
    elif layout == "wheel":
        python = request.getfixturevalue("installed_python")
        ours = python.parent.parent
    else:
        python, ours = request.getfixturevalue("editable_python"), request.getfixturevalue("source")

    def imported(path: list[Path]) -> dict:
        return json.loads(run(python, "-c", IMPORT_ALL, *OPS, cwd=cwd, path=path).splitlines()[-1])

    beside = imported([stand_in, *path])
    assert all(Path(file).is_relative_to(ours) for file in beside["ops"]), beside
    assert Path(beside["kernels"]).is_relative_to(stand_in)
    if layout == "wheel":
        alone = imported(path)
        assert all(Path(file).is_relative_to(ours) for file in alone["ops"]), alone
        assert alone["kernels"] is None or not Path(alone["kernels"]).is_relative_to(ours)


def test_tree_has_no_top_level_kernels_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("module", ["nait_fast", "nait_fast.cli"])
def test_import_is_light(module: str, bare_python: Path) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(set({HEAVY}) & set(sys.modules))))"
    assert json.loads(run(bare_python, "-c", code, cwd=ROOT)) == []


def test_version_without_installing(bare_python: Path) -> None:
    assert run(bare_python, "-c", "import nait_fast; print(nait_fast.__version__)", cwd=ROOT).strip() == __version__


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = f"nait_fast-{__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    expected = {f"nait_fast/{name}" for name in files_below(ROOT / "nait_fast")}
    expected |= {f"nait_fast/kernels/{name}" for name in files_below(ROOT / "kernels")}
    packaged = {name for name in names if not name.startswith(f"{info}/")}

    assert packaged == expected
    assert {f"nait_fast/kernels/{op}/__init__.py" for op in OPS} | {"nait_fast/py.typed"} <= packaged
    assert metadata["Version"] == __version__
    assert any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in names)
    assert "nait-fast = nait_fast.cli:main" in entry_points


def test_a_release_is_what_an_index_takes(release: Path) -> None:
    """``twine check``: the metadata, and a description that can be rendered."""
    pytest.importorskip("twine")
    files = sorted(release.iterdir())
    assert [file.name.removeprefix(f"nait_fast-{__version__}") for file in files] == ["-py3-none-any.whl", ".tar.gz"]
    said = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=release)
    assert said.count("PASSED") == 2 and "WARNING" not in said


def test_a_release_runs_where_it_is_installed(installed_python: Path, elsewhere: Path) -> None:
    command = installed_python.with_name("nait-fast")
    assert run(command, "--version", cwd=elsewhere).strip() == f"nait-fast {__version__}"
    code = "from pathlib import Path; from nait_fast.demo import data; Path('pool.jsonl').write_bytes(data('pool'))"
    run(installed_python, "-c", code, cwd=elsewhere)
    assert "a pool of 422 rows, 422 of them usable" in run(command, "inspect", "pool.jsonl", cwd=elsewhere)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")


def test_issue_forms_can_be_filled_in() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 3
    for form in map(yaml.safe_load, (file.read_text() for file in forms)):
        assert form["name"] and form["description"] and any(part["type"] != "markdown" for part in form["body"])
        named = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len({*named}) == len(named) and all(part["attributes"]["label"] for part in form["body"] if "id" in part)


def test_console_script(editable_python: Path, elsewhere: Path) -> None:
    assert "select" in run(editable_python.with_name("nait-fast"), "--help", cwd=elsewhere)
