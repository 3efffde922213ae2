"""``nait_fast.capture`` on a model that someone else loaded: padded batches against plain hooks, one at a time."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast import NaitError
from nait_fast.extract.pooling import dtype_of
from nait_fast.notices import NaitWarning
from tests import naive
from tests.models.tiny import GPT, NEURONS, READINGS, build, config_of, llama, sequences, worst_error

SEQUENCES = sequences()


def padded(ids, side: str, filler: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask) of ``ids``; the padding is a token like any other."""
    width = max(len(x) for x in ids)
    batch, mask = torch.full((len(ids), width), filler), torch.zeros(len(ids), width, dtype=torch.long)
    for i, x in enumerate(ids):
        place = slice(0, len(x)) if side == "right" else slice(width - len(x), width)
        batch[i, place], mask[i, place] = torch.from_numpy(x).long(), 1
    return batch, mask


def check(captured, model, ids, first_token="exclude"):
    expected = naive.pooled_all(model, ids)
    expected["mean"] = expected["mean" if first_token == "exclude" else "mean_all"]
    compare(captured, expected, ids)


def compare(captured, expected, ids):
    for reading in READINGS:
        got = captured.stacked(reading)
        assert got.dtype == dtype_of(reading) and got.shape == (len(ids), 3, NEURONS)
        assert worst_error(got.detach(), expected[reading]) <= 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "phi3", "stablelm"])
def test_padding_on_either_side(model_type, side):
    extra = {"sliding_window": 8} if model_type in ("gemma3_text", "phi3") else {}
    model = build(config_of(model_type, **extra), "eager")
    ids, mask = padded(SEQUENCES, side)
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(input_ids=ids, attention_mask=mask)
    check(captured, model, SEQUENCES)


def test_padding_with_absolute_positions(recwarn):
    model = build(config_of("gpt2", GPT))
    ids, mask = padded(SEQUENCES, "left")
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(input_ids=ids, attention_mask=mask, position_ids=positions)
    check(captured, model, SEQUENCES)
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(*padded(SEQUENCES, "right")[:1], attention_mask=padded(SEQUENCES, "right")[1])
    check(captured, model, SEQUENCES)
    assert not [w for w in recwarn if issubclass(w.category, NaitWarning)]


def test_left_padding_that_moves_the_positions_is_said(recwarn):
    gpt2, rotary = build(config_of("gpt2", GPT)), llama()
    ids, mask = padded(SEQUENCES, "left")
    with torch.no_grad(), nait_fast.capture(rotary):
        rotary(input_ids=ids, attention_mask=mask)
    assert not [w for w in recwarn if issubclass(w.category, NaitWarning)]
    with torch.no_grad(), nait_fast.capture(gpt2) as captured:
        with pytest.warns(NaitWarning, match="padding on the left changes this model's activations: give position_ids"):
            gpt2(input_ids=ids, attention_mask=mask)
        assert captured.stacked("mean").shape == (len(SEQUENCES), 3, NEURONS)


def test_left_padding_that_gives_no_numbers_is_said():
    model = llama()
    ids, mask = padded(SEQUENCES, "left")

    def broken(module, args, kwargs, output):
        given = kwargs.get("attention_mask")
        if given is not None and not given.all():
            output.last_hidden_state.fill_(torch.nan)

    model.model.register_forward_hook(broken, with_kwargs=True)
    with torch.no_grad(), nait_fast.capture(model), pytest.warns(NaitWarning, match="padding on the left changes"):
        model(input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("first_token", ["exclude", "include"])
def test_the_first_token(first_token):
    model = llama()
    ids, mask = padded(SEQUENCES, "left")
    with torch.no_grad(), nait_fast.capture(model, READINGS, first_token=first_token) as captured:
        model(input_ids=ids, attention_mask=mask.bool())
    check(captured, model, SEQUENCES, first_token)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_given_by_position(side):
    model = llama()
    ids, mask = padded(SEQUENCES, side)
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(ids, mask)
    check(captured, model, SEQUENCES)


def test_no_mask_means_no_padding():
    model = llama()
    ids = sequences((9, 9, 9))
    batch = torch.from_numpy(np.stack(ids)).long()
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(batch)
        check(captured, llama(), ids)
        model(inputs_embeds=model.get_input_embeddings()(batch))
        check(captured, llama(), ids)


@pytest.mark.parametrize("body", [False, True])
def test_several_forwards_in_one_block(body):
    model = llama()
    called = model.model if body else model
    kept = []
    with torch.no_grad(), nait_fast.capture(called, READINGS) as captured:
        for seed, lengths in enumerate([(1, 2, 9), (33,), (5, 60)]):
            ids = sequences(lengths, seed)
            batch, mask = padded(ids, "right")
            called(input_ids=batch, attention_mask=mask)
            check(captured, llama(), ids)
            kept.append((ids, captured["mean"]))
    # The readings of the last forward outlive the block, and those taken before stay what they were.
    check(captured, model, ids)
    for ids, mean in kept:
        assert worst_error(torch.stack(mean, dim=1), naive.pooled_all(model, ids)["mean"]) <= 1e-5


def test_layers():
    model = llama()
    ids, mask = padded(SEQUENCES, "right")
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), nait_fast.capture(model, READINGS, layers="0,-1") as some:
        model(input_ids=ids, attention_mask=mask)
    assert (captured.layers, some.layers) == ([0, 1, 2], [0, 2])
    for reading in READINGS:
        assert torch.equal(some.stacked(reading), captured.stacked(reading)[:, [0, 2]])


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("rows", [[[1, 0, 1]], [[1, 1, 1], [0, 1, 0], [1, 0, 1]], [[1, 1, 1], [0, 0, 0]]], ids=str)
def test_a_mask_with_holes_or_without_tokens(rows):
    model = llama()
    mask = torch.tensor(rows)
    with (
        torch.no_grad(),
        nait_fast.capture(model),
        pytest.raises(NaitError, match="each row of attention_mask must be one run of ones"),
    ):
        model(input_ids=torch.full(mask.shape, 5), attention_mask=mask)


def test_a_step_behind_a_cache():
    model = llama()
    ids = torch.from_numpy(SEQUENCES[2])[None].long()
    with (
        torch.no_grad(),
        nait_fast.capture(model),
        pytest.raises(NaitError, match="attention_mask and input differ in shape: run whole sequences, no cache"),
    ):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"attention_mask": torch.ones(1, 4)}, "without input_ids and inputs_embeds"),
        ({"input_ids": torch.full((1, 4), 5), "attention_mask": torch.ones(1, 1, 4, 4)}, r"must be \[B, T\]"),
        ({"input_ids": torch.full((1, 4), 5), "attention_mask": {"full_attention": None}}, r"must be \[B, T\]"),
    ],
)
def test_inputs_that_say_too_little(inputs, message):
    model = llama()
    with torch.no_grad(), nait_fast.capture(model), pytest.raises(NaitError, match=message):
        model(**inputs)


def test_training_mode():
    with (
        pytest.raises(NaitError, match=r"the model is in training mode; call model.eval\(\) first"),
        nait_fast.capture(llama().train()),
    ):
        pass


@pytest.mark.parametrize("options", [{"readings": ["mean", "median"]}, {"first_token": "median"}])
def test_unknown_names(options):
    with (
        pytest.raises(NaitError, match="'median' is none of drift, mean, up_abs, exclude, include"),
        nait_fast.capture(llama(), **options),
    ):
        pass


def test_experts_of_another_kind():
    model = build(config_of("jetmoe", kv_channels=8, num_key_value_heads=2))
    with pytest.raises(NaitError, match="layer 0 is a mixture of experts of its own kind"), nait_fast.capture(model):
        pass


def test_layers_outside_the_model():
    with (
        pytest.raises(NaitError, match="does not lie in this model's 3 layers"),
        nait_fast.capture(llama(), layers="3"),
    ):
        pass


def test_readings_that_are_not_there():
    model = llama()
    with torch.no_grad(), nait_fast.capture(model, ["drift"]) as captured:
        with pytest.raises(KeyError, match="drift: not captured"):
            captured["drift"]
        model(torch.full((1, 4), 5))
        assert len(captured["drift"]) == 3
        with pytest.raises(KeyError, match="mean: not captured"):
            captured["mean"]


def test_blocks_of_several_threads_on_one_model():
    """Each thread sees its own forwards, whatever the order in which the blocks begin and end."""
    model = llama()
    mlp = model.model.layers[0].mlp
    shares = [SEQUENCES[:2], SEQUENCES[2:4]]
    expected = [naive.pooled_all(model, share) for share in shares]
    barrier = threading.Barrier(2, timeout=60)

    def run(number: int) -> None:
        ids, mask = padded(shares[number], "left")

        def forward() -> None:
            model(input_ids=ids, attention_mask=mask)
            compare(captured, expected[number], shares[number])

        if number:
            barrier.wait()  # the first one's block has begun
        with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
            if not number:
                barrier.wait()
            barrier.wait()  # both have begun
            for _ in range(5):
                forward()
            if number:
                barrier.wait()  # the first one's block has ended
                assert "forward" in mlp.__dict__
                forward()
        if not number:
            barrier.wait()

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(run, number) for number in range(2)]:
            future.result()
    assert "forward" not in mlp.__dict__ and not model._forward_hooks and not model._forward_pre_hooks


def test_blocks_within_one_another():
    """Each has its own readings of every forward inside of it, whichever module it was opened on."""
    model = llama()
    ids, mask = padded(SEQUENCES, "left")
    expected = naive.pooled_all(model, SEQUENCES[:4])
    with torch.no_grad(), nait_fast.capture(model, READINGS) as outer:
        bare = model(input_ids=ids, attention_mask=mask).logits
        alone = [x.clone() for x in outer["mean"]]
        with nait_fast.capture(model.model, ["mean"], layers="0,2", first_token="include") as inner:
            assert all(
                torch.equal(a, b) for a, b in zip(outer["mean"], alone, strict=True)
            )  # the inner's trial is its own
            both = model(input_ids=ids[:4], attention_mask=mask[:4]).logits
            assert torch.allclose(both, bare[:4], atol=1e-5)
            compare(outer, expected, SEQUENCES[:4])
            assert worst_error(inner.stacked("mean"), expected["mean_all"][:, [0, 2]]) <= 1e-5
            model.model(input_ids=ids, attention_mask=mask)  # no forward of the outer block's model
            assert len(inner["mean"][0]) == len(SEQUENCES) and len(outer["mean"][0]) == 4
        model(input_ids=ids, attention_mask=mask)
    check(outer, model, SEQUENCES)
    assert "forward" not in model.model.layers[0].mlp.__dict__


def test_a_failed_forward_leaves_the_readings_of_the_last_one():
    model = llama()
    ids, mask = padded(SEQUENCES, "left")
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(input_ids=ids, attention_mask=mask)
        with pytest.raises(IndexError):
            model(input_ids=ids + 1000, attention_mask=mask)
        check(captured, model, SEQUENCES)


def test_a_copy_made_inside_of_a_block_is_not_captured():
    model = llama()
    ids, mask = padded(SEQUENCES, "left")
    with torch.no_grad(), nait_fast.capture(model) as captured:
        other = copy.deepcopy(model)
        other(input_ids=ids, attention_mask=mask)
        with pytest.raises(KeyError):
            captured["mean"]
        with nait_fast.capture(other, READINGS) as own:
            other(input_ids=ids, attention_mask=mask)
        check(own, model, SEQUENCES)
    assert "forward" not in other.model.layers[0].mlp.__dict__ and "forward" not in model.model.layers[0].mlp.__dict__


def test_a_thread_outside_the_block_is_not_captured():
    model = llama()
    ids, mask = padded(SEQUENCES, "left")
    with torch.no_grad(), nait_fast.capture(model) as captured, ThreadPoolExecutor(1) as thread:
        bare = thread.submit(lambda: torch.no_grad()(model)(input_ids=ids, attention_mask=mask)).result()
        with pytest.raises(KeyError, match="in the thread of the block"):
            captured["mean"]
        own = model(input_ids=ids, attention_mask=mask)
        assert torch.equal(own.logits, bare.logits)
        here = captured["mean"]
        assert thread.submit(lambda: captured["mean"]).result() is here  # the latest of any thread


def test_a_forward_that_somebody_else_puts_around_stays():
    model = llama()
    ids, mask = padded(SEQUENCES, "left")
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        with nait_fast.capture(model):
            ours = mlp.forward
            mlp.forward = lambda x: ours(x)
        assert mlp.forward is not ours and "forward" not in model.model.layers[1].mlp.__dict__
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
