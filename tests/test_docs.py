"""What the documents say holds: the snippet that reads an index, and README's figures."""

import re
from pathlib import Path

import numpy as np

import nait_fast
from benchmarks import readme

ROOT = Path(__file__).parent.parent


def test_an_index_is_read_without_this_package(tiny_model, pool_file, tmp_path, monkeypatch):
    nait_fast.build_index(model=tiny_model, dataset=str(pool_file), output=str(tmp_path / "index"), shard_rows=25)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "format.md").read_text(), re.DOTALL)
    assert snippet is not None and "nait_fast" not in snippet[1]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet[1], names)
    index = nait_fast.Index(tmp_path / "index")
    expected = np.concatenate([index.layout.unpack(np.array(shard.codes)) for shard in index.shards()])
    assert names["rows"].tolist() == list(range(60))
    assert np.array_equal(names["bits"].astype(bool), expected[:, index.layout.neurons(2)])


def test_readme_shows_what_the_results_say(monkeypatch):
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    assert readme.main() == 0
