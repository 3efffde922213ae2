"""Checks of the naive reference itself, on tiny models with random weights and on examples worked by hand."""

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

from tests import naive

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(family):
    torch.manual_seed(0)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1, attn_implementation="eager"))
    elif family == "phi3":
        model = Phi3ForCausalLM(Phi3Config(**SMALL, pad_token_id=0, attn_implementation="eager"))
    elif family == "neox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, attn_implementation="eager"))
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=50, n_embd=16, n_inner=24, n_layer=2, n_head=2, attn_implementation="eager")
        )
    return model.eval()


def by_hand(model, family, ids):
    """[(a, up)] a layer: each MLP's own weights applied to what enters the MLP, which a hook on the MLP records."""
    entered = []
    layers = {"llama": "model.layers", "phi3": "model.layers", "neox": "gpt_neox.layers", "gpt2": "transformer.h"}
    blocks = [block.mlp for block in model.get_submodule(layers[family])]
    handles = [mlp.register_forward_pre_hook(lambda module, args: entered.append(args[0])) for mlp in blocks]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    out = []
    with torch.no_grad():
        for mlp, x in zip(blocks, (e[0] for e in entered), strict=True):
            if family == "llama":
                up = x @ mlp.up_proj.weight.T
                a = torch.nn.functional.silu(x @ mlp.gate_proj.weight.T) * up
            elif family == "phi3":
                gate, up = x @ mlp.gate_up_proj.weight[:24].T, x @ mlp.gate_up_proj.weight[24:].T
                a = torch.nn.functional.silu(gate) * up
            elif family == "neox":
                up = x @ mlp.dense_h_to_4h.weight.T + mlp.dense_h_to_4h.bias
                a = torch.nn.functional.gelu(up)
            else:
                up = x @ mlp.c_fc.weight + mlp.c_fc.bias
                a = torch.nn.functional.gelu(up, approximate="tanh")
            out.append((a.double().numpy(), up.double().numpy()))
    return out


@pytest.mark.parametrize("family", ["llama", "phi3", "neox", "gpt2"])
def test_pooled_is_what_the_weights_say(family):
    model = tiny(family)
    got = naive.pooled(model, IDS)
    assert set(got) == set(naive.READINGS)
    for layer, (a, up) in enumerate(by_hand(model, family, IDS)):
        wanted = {
            "first": a[0],
            "last": a[7],
            "drift": a[7] - a[0],
            "mean": a[1:].sum(axis=0) / 7,
            "mean_all": a.sum(axis=0) / 8,
            "up_abs": np.abs(up).sum(axis=0) / 8,
        }
        for name, value in wanted.items():
            assert got[name].shape == (2, 24) and got[name].dtype == np.float64
            assert np.abs(got[name][layer] - value).max() < 1e-6 * np.abs(a).max() + 1e-7, name
            assert np.abs(value).max() > 1e-5 * np.abs(up).max(), name


def test_one_token_has_a_mean_and_no_drift():
    got = naive.pooled(tiny("llama"), [7])
    assert np.array_equal(got["mean"], got["first"]) and np.array_equal(got["mean_all"], got["first"])
    assert not got["drift"].any() and got["first"].any()


def test_hooks_are_gone_and_samples_do_not_mix():
    model = tiny("llama")
    alone = naive.pooled(model, IDS)
    together = naive.pooled_all(model, [IDS[:3], IDS])
    assert np.array_equal(together["drift"][1], alone["drift"])
    assert together["drift"].shape == (2, 2, 24)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_double_leaves_the_model_alone_and_is_close():
    model = tiny("llama")
    double = naive.as_double(model)
    assert next(model.parameters()).dtype == torch.float32 and next(double.parameters()).dtype == torch.float64
    single, exact = naive.pooled(model, IDS)["mean"], naive.pooled(double, IDS)["mean"]
    assert 0 < np.abs(single - exact).max() < 1e-5 * np.abs(exact).max()


def test_principal_direction_and_its_sign():
    rng = np.random.default_rng(0)
    axis = np.array([3.0, 0, -4, 0, 0]) / 5
    drifts = rng.normal(size=(40, 1)) * 2 * axis + rng.normal(size=(40, 5)) * 0.01
    toward = naive.principal_direction(drifts + axis)
    away = naive.principal_direction(drifts - axis)
    assert np.abs(toward - axis).max() < 0.02 and np.abs(away + axis).max() < 0.02
    assert np.isclose(np.linalg.norm(toward), 1)
    assert naive.principal_direction(drifts + axis, orient=-axis) @ axis < -0.99
    # against the eigenvector of the covariance, another road to the same direction
    values, vectors = np.linalg.eigh(np.cov(drifts.T))
    assert np.isclose(abs(vectors[:, values.argmax()] @ toward), 1)
    with pytest.raises(ValueError, match="two samples"):
        naive.principal_direction(drifts[:1])


def test_nait_scores_by_hand():
    V = np.array([[1.0, 0], [0, -1]])
    A = np.array([[[2.0, 9], [9, 3]], [[0, 1], [1, -1]]])
    assert naive.nait_scores(A, V).tolist() == [2 - 3, 0 + 1]
    drifts = np.stack([np.outer([1, 2], [1.0, 0]) * c for c in (1, 2, 4)])
    assert np.allclose(naive.principal_directions(drifts), [[1, 0], [1, 0]])
    assert np.allclose(naive.principal_directions(drifts, orient=np.array([[-1.0, 0], [1, 0]])), [[-1, 0], [1, 0]])


def test_bits_and_contrast_by_hand():
    A = np.array([[[1.0, 2, 3]], [[3, 2, 1]], [[5, 2, 2]]])
    tau = naive.threshold(A)
    assert tau.tolist() == [[3, 2, 2]]
    b = naive.bits(A, tau)  # strictly above: a value that equals τ is no bit
    assert b.tolist() == [[[False, False, True]], [[False, False, False]], [[True, False, False]]]
    w = naive.contrast_weights(b[:1], b)
    assert np.allclose(w, [[-1 / 3, 0, 2 / 3]])
    assert np.allclose(naive.contrast_scores(b, w), [2 / 3, 0, -1 / 3])
    whole = naive.contrast_scores(b, np.array([[-7, 5, 3]], dtype=np.int8))
    assert whole.tolist() == [3, 0, -7] and whole.dtype == np.int64
    big = naive.contrast_scores(np.ones((1, 10, 100), dtype=bool), np.full((10, 100), 127, dtype=np.int8))
    assert big.tolist() == [127_000]


def test_nag_by_hand():
    up = np.array([[5.0, 1, 5, 5], [0, 0, 0, 9]])
    assert naive.nag_sets(up, k=2) == [{0, 2}, {3, 0}]  # ties: the lower index
    assert naive.nag_sets(up, k=9) == [{0, 1, 2, 3}, {0, 1, 2, 3}]
    target = [[{0, 2}, {3, 0}], [{0, 1}, {3, 0}], [{0, 2}, {3, 1}]]
    profile = naive.nag_profile(target)
    assert profile[0] == {0: 3 / 6, 2: 2 / 6, 1: 1 / 6} and profile[1] == {3: 3 / 6, 0: 2 / 6, 1: 1 / 6}
    assert np.isclose(naive.nag_similarity([{0, 3}, {3, 0}], profile), (3 / 6 + 5 / 6) / 2)
    assert naive.nag_similarity([{3}, {2}], profile) == 0


@pytest.mark.parametrize("J", [24, 32, 33, 70])
def test_packing_round_trip(J):
    b = np.random.default_rng(J).random((3, 2, J)) > 0.5
    codes = naive.pack(b)
    assert codes.shape == (3, 2 * naive.layer_bytes(J)) and naive.layer_bytes(J) % 4 == 0
    assert np.array_equal(naive.unpack(codes, 2, J), b)
    wide = np.zeros((3, 2, 8 * naive.layer_bytes(J)), dtype=bool)
    wide[:, :, :J] = b
    assert np.array_equal(codes, np.packbits(wide, axis=-1, bitorder="little").reshape(3, -1))
    codes[0, -1] |= 128
    if J % 32:
        with pytest.raises(ValueError, match="padding"):
            naive.unpack(codes, 2, J)


def test_packing_layout_by_hand():
    b = np.zeros((1, 2, 40), dtype=bool)
    b[0, 0, 0] = b[0, 0, 9] = b[0, 1, 39] = True
    assert naive.pack(b).tolist() == [[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0]]


PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}"
STRIPPED = PLAIN.replace("m['content']", "m['content'] | trim")


def characters(template):
    """A tokenizer whose tokens are single characters, except the special tokens [end] and [bos]."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

    vocabulary = {chr(c): c for c in range(32, 127)} | {"[end]": 0, "[bos]": 1, "\n": 2, "[unk]": 3}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    inner.add_special_tokens([AddedToken("[end]", special=True), AddedToken("[bos]", special=True)])
    inner.post_processor = processors.TemplateProcessing(single="[bos] $A", special_tokens=[("[bos]", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="[bos]", eos_token="[end]", unk_token="[unk]", chat_template=template
    )


@pytest.mark.parametrize(
    ("template", "answer", "shown"),
    [
        (PLAIN, "yes, 4", "yes, 4"),
        (PLAIN, "end", "end"),  # also the text of the closing token
        (PLAIN, "d", "d"),
        (PLAIN, "hi", "hi"),  # also said by the user
        (PLAIN, " two\n", " two\n"),
        (STRIPPED, " two\n", "two"),
    ],
)
def test_content_ids(template, answer, shown):
    tokenizer = characters(template)
    assert tokenizer("a")["input_ids"] == [1, ord("a")]  # it would add a BOS if asked
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]
    before = [ord(c) for c in "[user]hi"] + [0] + [ord(c) for c in "[assistant]"]
    wanted = before + [2 if c == "\n" else ord(c) for c in shown]
    assert naive.content_ids(tokenizer, messages) == wanted
    assert naive.content_ids(tokenizer, messages, max_length=11) == wanted[:11]


def test_content_that_the_template_rewrites():
    only_after_dash = PLAIN.replace("m['content']", "m['content'].split('-')[-1]")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "plan-ok"}]
    with pytest.raises(ValueError, match="does not show"):
        naive.content_ids(characters(only_after_dash), messages)
    with pytest.raises(ValueError, match="empty"):
        naive.content_ids(characters(PLAIN), [{"role": "user", "content": " "}])
