"""Mixers that carry state in a packed forward: how rows are laid, what stays untouched, and what must not be packed."""

import copy

import pytest
import torch

from nait_fast.models.load import prepare
from nait_fast.models.pack import MAX_ROW_PADDING, Pack, Rows
from nait_fast.models.packed import packed_attention_on, packed_forward
from nait_fast.models.packing_checks import expected_path, packs_exactly
from nait_fast.models.rows import row_mixers
from tests.models.test_families import config_for
from tests.models.tiny import build, config_of, llama, sequences, worst_error

LENGTHS = [1, 2, 9, 9, 33, 60]
ZAYA = {"layer_types": ["hybrid_sliding"] * 3, "sliding_window": 16, "num_key_value_heads": 2, "num_experts": 3}


def hybrid():
    return build(config_for("qwen3.5"), "eager").base_model


def packed_hidden(model, lengths=LENGTHS) -> torch.Tensor:
    ids = torch.cat([torch.from_numpy(x).long() for x in sequences(lengths)])
    with torch.no_grad(), packed_attention_on(model):
        return packed_forward(model, ids, Pack(lengths)).last_hidden_state[0]


def test_rows_give_back_what_was_laid() -> None:
    for lengths in ([4], [3, 3], [100, 99, 98, 100], LENGTHS, LENGTHS[::-1], [1] * 7):
        pack, x = Pack(lengths), torch.randn(1, sum(lengths), 2, 3)
        groups = pack.rows(torch.device("cpu"))
        assert torch.equal(torch.cat([rows.take(rows.lay(x)) for rows in groups]), x[0])
        assert sum(rows.shape[0] for rows in groups) == len(lengths)
        for rows in groups:
            laid = rows.lay(x)
            assert laid.shape == (*rows.shape, 2, 3)
            assert rows.tokens >= (1 - MAX_ROW_PADDING) * rows.shape[0] * rows.shape[1]
            assert int((laid == 0).all(dim=(2, 3)).sum()) == rows.shape[0] * rows.shape[1] - rows.tokens
    assert len(Pack([100, 99, 98, 100]).rows(torch.device("cpu"))) == 1


def test_a_mixer_runs_once_for_sequences_of_similar_length() -> None:
    model, seen = hybrid(), []
    mixer = next(iter(row_mixers(model)))
    handle = mixer.in_proj_qkv.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    packed_hidden(model, [60, 59, 60, 20])
    handle.remove()
    assert seen == [(3, 60), (1, 20)]


def test_the_path_is_told() -> None:
    assert prepare(hybrid(), None).forward == "packed, mixers in rows"
    assert expected_path(hybrid()).startswith("packed, mixers in rows (state space or gated delta rule)")
    assert prepare(llama(), None).forward == "packed" and expected_path(llama().base_model).startswith("packed, if")
    gptj = build(config_for("gptj"))
    assert prepare(gptj, None).forward == "padded"


def test_a_model_is_as_it_was_after_it() -> None:
    model = hybrid()
    mixers = list(row_mixers(model))
    assert len(mixers) == 2
    calls, plain = [], mixers[0].forward

    def own(*args, **named):
        calls.append(args or named)
        return plain(*args, **named)

    mixers[0].forward = own  # as accelerate's hooks do
    expected = packed_hidden(hybrid())
    with pytest.raises(ZeroDivisionError), packed_attention_on(model), packed_attention_on(model):
        _ = 1 / 0
    assert torch.equal(packed_hidden(model), expected) and calls
    assert mixers[0].__dict__["forward"] is own and "forward" not in mixers[1].__dict__


def test_a_copy_made_meanwhile_packs_too() -> None:
    model = hybrid()
    with packed_attention_on(model):
        other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    for parameter in model.parameters():
        parameter.data.zero_()  # the copy's mixers must be its own
    assert torch.equal(packed_hidden(other), packed_hidden(hybrid()))


def test_a_forward_that_is_not_packed_is_the_models_own() -> None:
    model, ids = hybrid(), torch.from_numpy(sequences([20])[0]).long()[None]
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).last_hidden_state
        with packed_attention_on(model, "eager"):
            assert torch.equal(model(input_ids=ids, use_cache=False).last_hidden_state, expected)


def test_a_window_in_the_mask_alone_is_not_packed_away() -> None:
    """One that is wider than the trial's sequences must not be lost where attention is not told of it."""
    config = config_of("zaya", **ZAYA)
    model = build(config, "eager").base_model
    assert packs_exactly(model)
    for layer in model.layers:
        layer.self_attn.sliding_window = None
    assert not packs_exactly(model)


def test_a_broken_sample_breaks_no_other_in_its_rows() -> None:
    """Token 59 is NaN; in rows its sequence has others above and below it."""
    model = hybrid()
    model.get_input_embeddings().weight.data[59] = float("nan")
    ids = [torch.from_numpy(x % 56 + 3).long() for x in sequences([20] * 4)]
    ids[1][7] = ids[2][-1] = 59
    with torch.no_grad(), packed_attention_on(model):
        hidden = packed_forward(model, torch.cat(ids), Pack([20] * 4)).last_hidden_state[0].split(20)
        alone = [packed_forward(model, x, Pack([20])).last_hidden_state[0] for x in ids]
    for i in (0, 3):
        assert worst_error(hidden[i], alone[i]) <= 1e-5
    assert not hidden[1].isfinite().all() and not hidden[2].isfinite().all()


def test_the_proof_sees_rows_with_padding(monkeypatch) -> None:
    """Tokens taken from the wrong places of such rows would go unseen where all rows of the trial are full."""
    model = hybrid()
    assert packs_exactly(model)
    monkeypatch.setattr(Rows, "take", lambda rows, x: x.flatten(0, 1)[: rows.tokens])
    assert not packs_exactly(model)
