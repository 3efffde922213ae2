"""What activations are made of is gone when the down projection runs: at 65,000 tokens of a 7B gigabytes."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM
from transformers.integrations import moe

from nait_fast.live_capture import capture
from nait_fast.models import families
from nait_fast.models.experts import RoutedSpec
from nait_fast.models.find import find_specs
from nait_fast.models.spec import FormulaSpec, MlpSpec
from tests.models import test_experts, test_families
from tests.models.tiny import build

IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
DENSE = (
    *("bitnet", "gemma3n", "llama", "lfm2", "phi3", "granite 4", "modernbert-decoder", "arcee", "mpt", "gpt_neox"),
    *("bloom", "gpt2", "starcoder2", "phi", "gptj", "opt"),
)
EXPERTS = ("mixtral", "gpt_oss", "nemotron_h", "minimax_m3", "llama4")
CONFIGS = {name: lambda name=name: test_families.config_for(name) for name in DENSE}
CONFIGS |= {name: lambda name=name: test_experts.config_for(name) for name in EXPERTS}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What a cycle holds is not gone."""
    gc.disable()
    yield
    gc.enable()


@contextmanager
def watched(spec: MlpSpec) -> Iterator[set[str]]:
    """Names of the projections whose output is still there as ``down`` runs."""
    outputs: dict[str, StorageWeakRef] = {}
    alive: set[str] = set()
    handles = []
    for name in {spec.family.up, spec.family.gate} - {None}:

        def keep(module: Any, args: tuple, output: torch.Tensor, name: str = name) -> None:
            outputs[name] = StorageWeakRef(output.untyped_storage())

        handles.append(spec.part(name).register_forward_hook(keep))

    def look(module: Any, args: tuple) -> None:
        assert outputs
        alive.update(name for name, output in outputs.items() if not output.expired())

    handles.append(spec.part(spec.family.down).register_forward_pre_hook(look))
    yield alive
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_activations_are_made_of_is_gone(name: str, no_collector: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(CONFIGS[name]())
    specs = find_specs(model)
    downs = {id(getattr(s.module, "experts", s.module).down_proj) for s in specs if isinstance(s, RoutedSpec)}
    grouped, outputs, alive = moe._grouped_linear, list[StorageWeakRef](), list[bool]()

    def watching(x: torch.Tensor, weight: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        if id(weight) in downs:
            alive.append(not outputs.pop().expired())
            return grouped(x, weight, *args, **named)
        outputs.append(StorageWeakRef((out := grouped(x, weight, *args, **named)).untyped_storage()))
        return out

    for spec in specs:
        if isinstance(spec, MlpSpec):
            with torch.no_grad(), watched(spec) as plain:
                model(input_ids=IDS, use_cache=False)
            with torch.no_grad(), capture(model, ["mean"]), watched(spec) as captured:
                model(input_ids=IDS, use_cache=False)
            # A class's own forward may hold what it wants to.
            assert captured <= (set() if isinstance(spec, FormulaSpec) else plain)
    if downs:
        with torch.no_grad(), capture(model, ["mean"]):
            monkeypatch.setattr(moe, "_grouped_linear", watching)
            model(input_ids=IDS, use_cache=False)
        assert alive == [False] * len(downs)


def test_every_row_of_the_table_is_tried() -> None:
    tried = set()
    for make in CONFIGS.values():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(make())
        tried |= {spec.family for spec in find_specs(model) if isinstance(spec, MlpSpec)}
    assert tried == set(families.FAMILIES)
