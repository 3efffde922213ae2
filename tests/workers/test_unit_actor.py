"""An actor's calls in this process: what they do to the folder in whatever order its threads come to run."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nait_fast import build_index
from nait_fast.storage import files
from nait_fast.verbs.index import open_build
from nait_fast.workers.claims import Claims
from nait_fast.workers.function_names import name_of
from nait_fast.workers.ray_engine import FINISH, UnitActor
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest

ray = pytest.importorskip("ray")


def at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, pause: Callable[..., None]) -> None:
    """``pause`` comes before each call of ``owner.name``, with its arguments."""
    real = getattr(owner, name)

    def late(*args, **kwargs):
        pause(*args)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, late)


@pytest.mark.parametrize("moment", ["its lock is not given back yet", "its note is not synced yet"])
@pytest.mark.parametrize("repair", [True, False])
def test_the_index_ends_while_the_last_unit_is_leaving(
    tmp_path: Path, tiny_model: str, repair: bool, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: "0123456789"))
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(8))
    options = {"model": tiny_model, "dataset": str(pool), "shard_rows": 4, "calibration_size": 4}
    whole, folder = tmp_path / "whole", tmp_path / "index"
    build_index(**options, output=str(whole))
    if repair:
        build_index(**options, output=str(folder))
        shard = folder / "shard-00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-3])
    else:
        folder.mkdir()
    actor = UnitActor(name_of(open_build), {**options, "output": str(folder), "repair": repair}, 1, time.time())
    if not repair:
        assert actor({"unit": [0]})["error"] == [""]
    reached, go = threading.Event(), threading.Event()

    def wait(*_) -> None:
        if threading.current_thread() is last:
            reached.set()
            assert go.wait(60)

    if moment == "its lock is not given back yet":
        at(monkeypatch, Claims, "leave", wait)
    else:
        at(monkeypatch, files, "_sync_folder", lambda path: wait() if path.name == "work" else None)
    told: list[dict] = []
    last = threading.Thread(target=lambda: told.append(actor({"unit": [1]})))
    last.start()
    assert reached.wait(60)
    end = actor({"unit": [FINISH]})
    go.set()
    last.join(60)
    assert (end["error"], end["complete"]) == ([""], [True])
    assert [one["error"] for one in told] == [[""]]
    assert digest(folder) == digest(whole)
