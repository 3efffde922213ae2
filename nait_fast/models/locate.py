"""Where a model is read from, as far as its name tells: known without torch."""

from pathlib import Path

from nait_fast.errors import BadInput, missing_extra


def locate(model: str) -> tuple[str, dict[str, str]]:
    """(folder or Hub id, extra from_pretrained arguments)."""
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BadInput("no such file", where=f"--model {model}")
        try:
            import gguf  # noqa: F401
        except ImportError:
            raise missing_extra("gguf", "gguf", "reading GGUF needs", f"--model {model}") from None
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(p.name for p in path.glob("*.gguf"))
            remedy = f"name the file: --model {path / ggufs[0]}" if ggufs else ""
            raise BadInput("the folder has no config.json", where=f"--model {model}", remedy=remedy)
        return str(path), {}
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise BadInput("no model folder, GGUF file or Hub id of that name", where=f"--model {model}")
    return model, {}
