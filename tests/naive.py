"""The method written down naively: one sample at a time, plain hooks, no batching, no padding, no patching.

This file is the yardstick that the engine is compared with. It shares no code with the engine and it prefers
the obvious to the fast: sums are taken in float64, sets are Python sets, bits are packed in a Python loop.

Notation: a[l, t] is the input of the down projection of decoder layer l at token t, J neurons wide. The K tokens
of a sample are its *content*: a chat-templated conversation cut after the last token of its last message, so neither
EOS nor the template's closing tokens are among them. They come unpadded, and nothing is added to them.
"""

from __future__ import annotations

import copy
import os

import numpy as np
import torch

READINGS = ("first", "last", "drift", "mean", "mean_all", "up_abs")

# ----------------------------------------------------------------------------------------------- model and text


def load(folder, gguf=None, double=False):
    """A causal language model (eager attention, fp32, or fp64 with `double`) and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    extra = {"gguf_file": os.path.basename(gguf)} if gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(folder, **extra)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **extra)
    model.eval()
    return (as_double(model) if double else model), tokenizer


def as_double(model):
    """A copy of the model in fp64.

    Several modules of transformers (RMSNorm, rotary tables, the softmax of eager attention) go through fp32 whatever
    the weights are, so what comes out is fp64 arithmetic with a few fp32 roundings left, not 1e-16 exactness.
    """
    return copy.deepcopy(model).double().eval()


def content_span(tokenizer, messages, **template_args):
    """(rendered text, start, end): where the last message's content lies in the rendered conversation.

    The conversation is rendered a second time with a marker in place of the last content: what stands before and
    after the marker is the template's. A search for the content itself would be fooled by a short content that also
    occurs in the closing tokens ('end' in '<|im_end|>'). Templates that treat the content's own text in a special way
    fail the comparison, and there the last occurrence of the content is taken.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False, **template_args)
    content = messages[-1]["content"]
    if not content.strip():
        raise ValueError("the last message is empty")
    marker = "MARKERq7w5e3MARKER"
    marked = [*messages[:-1], {**messages[-1], "content": marker}]
    before, found, after = tokenizer.apply_chat_template(marked, tokenize=False, **template_args).partition(marker)
    if found and text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
        start, end = len(before), len(text) - len(after)
        if text[start:end].strip() == content.strip():
            return text, start, end
    for wanted in (content, content.strip()):
        start = text.rfind(wanted)
        if start >= 0:
            return text, start, start + len(wanted)
    raise ValueError("the template does not show the last message's content")


def content_ids(tokenizer, messages, max_length=None, **template_args):
    """Token ids of a conversation up to the last token that holds a character of the last content, then truncated."""
    text, start, end = content_span(tokenizer, messages, **template_args)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    last = None
    for position, (begin, stop) in enumerate(encoded["offset_mapping"]):
        if begin < stop and begin < end and stop > start:
            last = position
    if last is None:
        raise ValueError("no token holds a character of the last message's content")
    ids = list(encoded["input_ids"])[: last + 1]
    return ids if max_length is None else ids[:max_length]


# -------------------------------------------------------------------------------------------------- activations

_NAMES = {  # the down projection's name → the up projection's name, and whether it holds the gate as its first half
    "down_proj": (("up_proj", False), ("gate_up_proj", True)),  # Llama-like, Phi3
    "dense_4h_to_h": (("dense_h_to_4h", False),),  # GPT-NeoX
    "c_proj": (("c_fc", False),),  # GPT-2, StarCoder2 (the attention has a c_proj too, but no c_fc beside it)
    "fc2": (("fc1", False),),  # Phi, OPT
    "w2": (("w3", False),),  # LFM2
    "output_linear": (("input_linear", True),),  # Granite 4
    "Wo": (("Wi", True),),  # ModernBERT's decoder
    "fc_out": (("fc_in", False),),  # GPT-J, CodeGen
}


def mlps(model):
    """[(down projection, up projection, fused)] for each decoder layer, in order."""
    found = []
    for _, module in model.named_modules():
        for down, ups in _NAMES.items():
            for up, fused in ups:
                if hasattr(module, down) and hasattr(module, up):
                    found.append((getattr(module, down), getattr(module, up), fused))
    if len(found) != model.config.num_hidden_layers:
        raise ValueError(f"found {len(found)} dense MLPs in {model.config.num_hidden_layers} layers")
    return found


def activations(model, input_ids):
    """(a, up): per layer float64 arrays [K, J], the down projection's input and the up projection's output."""
    return hooked(model, input_ids)[:2]


@torch.no_grad()
def hooked(model, input_ids):
    """(a, up, hidden): as of `activations`, and per layer float64 [K, H], what goes into the MLP."""
    layers = mlps(model)
    a, up, hidden = ([None] * len(layers) for _ in range(3))
    handles = []

    def keep_input(layer):
        def hook(module, args):
            a[layer] = args[0].detach().flatten(0, -2).double().cpu().numpy()

        return hook

    def keep_up(layer, fused):
        def hook(module, args, output):
            hidden[layer] = args[0].detach().flatten(0, -2).double().cpu().numpy()
            half = output.shape[-1] // 2 if fused else 0
            up[layer] = output[..., half:].detach().flatten(0, -2).double().cpu().numpy()

        return hook

    for layer, (down, up_projection, fused) in enumerate(layers):
        handles.append(down.register_forward_pre_hook(keep_input(layer)))
        handles.append(up_projection.register_forward_hook(keep_up(layer, fused)))
    try:
        ids = torch.tensor([list(input_ids)], dtype=torch.long, device=next(model.parameters()).device)
        model.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return a, up, hidden


def pooled(model, input_ids, chosen=None):
    """The readings of one sample: a dict of float64 arrays [L, J], named as in READINGS.

    `chosen`: the positions of the tokens that count, None for all. `mean` leaves out the sample's first token unless it
    is the only one; `mean_all` and `up_abs` are over all of them.
    """
    a, up = activations(model, input_ids)
    places, later = _counted(input_ids, chosen)
    first = np.stack([x[places[0]] for x in a])
    last = np.stack([x[places[-1]] for x in a])
    return {
        "first": first,
        "last": last,
        "drift": last - first,
        "mean": np.stack([x[later].mean(axis=0) for x in a]),
        "mean_all": np.stack([x[places].mean(axis=0) for x in a]),
        "up_abs": np.stack([np.abs(x[places]).mean(axis=0) for x in up]),
    }


def _counted(input_ids, chosen):
    """(positions of the tokens that count, those of them that a mean runs over)."""
    places = list(range(len(input_ids))) if chosen is None else sorted(chosen)
    return places, places[1:] if places[0] == 0 and len(places) > 1 else places


def mean_hidden(model, input_ids, chosen=None):
    """Mean of what goes into each layer's MLP, float64 [L, H], over the tokens that `mean` runs over."""
    _, later = _counted(input_ids, chosen)
    return np.stack([x[later].mean(axis=0) for x in hooked(model, input_ids)[2]])


def rds(model, input_ids, chosen=None):
    """Σ_t t · h_t / Σ_t t, float64 [H], over the positions t = 1, 2, … of the tokens that count; h: last hidden states.

    `chosen`: as of `pooled`, from 0.
    """
    ids = torch.tensor([list(map(int, input_ids))], device=next(model.parameters()).device)
    with torch.no_grad():
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0].double().cpu().numpy()
    at = list(range(len(states))) if chosen is None else chosen
    weights = np.array(at, dtype=np.float64) + 1
    return weights @ states[at] / weights.sum()


def pooled_all(model, samples):
    """The readings of many samples: a dict of float64 arrays [n, L, J]."""
    rows = [pooled(model, ids) for ids in samples]
    return {name: np.stack([row[name] for row in rows]) for name in READINGS}


# --------------------------------------------------------------------------------------------------- method nait


def principal_direction(drifts, orient=None):
    """First principal component [J] of the drifts [n, J] of one layer, with orient · v ≥ 0 (orient: their mean)."""
    drifts = np.asarray(drifts, dtype=np.float64)
    if len(drifts) < 2:
        raise ValueError("a principal direction needs at least two samples")
    mean = drifts.mean(axis=0)
    _, _, vt = np.linalg.svd(drifts - mean, full_matrices=False)
    v = vt[0]
    return -v if (mean if orient is None else np.asarray(orient)) @ v < 0 else v


def principal_directions(drifts, orient=None):
    """Directions [L, J] from drifts [n, L, J]; `orient` [L, J] replaces the mean drift in the sign rule."""
    drifts = np.asarray(drifts, dtype=np.float64)
    return np.stack(
        [principal_direction(drifts[:, x], None if orient is None else orient[x]) for x in range(drifts.shape[1])]
    )


def nait_scores(A, V):
    """Σ_l A_l · v_l for each sample: A [n, L, J], V [L, J] → [n]."""
    A, V = np.asarray(A, dtype=np.float64), np.asarray(V, dtype=np.float64)
    return np.array([sum(float(a @ v) for a, v in zip(sample, V, strict=True)) for sample in A])


# --------------------------------------------------------------------------------------- bits, method contrast


def threshold(A_mean):
    """τ [L, J]: the mean over a calibration sample [n, L, J]."""
    return np.asarray(A_mean, dtype=np.float64).mean(axis=0)


def bits(A_mean, tau):
    """b = [A_mean > τ], booleans of A_mean's shape."""
    return np.asarray(A_mean, dtype=np.float64) > np.asarray(tau, dtype=np.float64)


def contrast_weights(target_bits, pool_bits):
    """w [L, J] = p_target − p_pool, the difference of the bits' frequencies."""
    return np.asarray(target_bits, dtype=np.float64).mean(axis=0) - np.asarray(pool_bits, dtype=np.float64).mean(axis=0)


def contrast_scores(sample_bits, weights):
    """Σ_{l,j} w[l,j] b[l,j] for each sample: exact integers when the weights are integers, else float64."""
    weights = np.asarray(weights)
    kind = np.int64 if np.issubdtype(weights.dtype, np.integer) else np.float64
    return np.array([weights[np.asarray(b, dtype=bool)].astype(kind).sum() for b in sample_bits], dtype=kind)


# ------------------------------------------------------------------------------------------------------ method nag


def nag_sets(up_abs, k=20):
    """Per layer the set of the k neurons with the largest mean |up| (of equals, the lower index): up_abs [L, J]."""
    sets = []
    for values in np.asarray(up_abs, dtype=np.float64):
        order = sorted(range(len(values)), key=lambda j: (-values[j], j))
        sets.append(set(order[:k]))
    return sets


def nag_profile(samples):
    """Per layer {neuron: share}: how often the target samples' sets hold it, normalised to sum to 1 a layer."""
    profile = []
    for layer in range(len(samples[0])):
        counts = {}
        for sets in samples:
            for neuron in sets[layer]:
                counts[neuron] = counts.get(neuron, 0) + 1
        total = sum(counts.values())
        profile.append({neuron: count / total for neuron, count in counts.items()})
    return profile


def nag_similarity(sets, profile):
    """Mean over the layers of the profile's mass on the sample's set."""
    masses = [sum(shares.get(j, 0.0) for j in chosen) for chosen, shares in zip(sets, profile, strict=True)]
    return sum(masses) / len(masses)


# ----------------------------------------------------------------------------------------------------- packed bits


def layer_bytes(J):
    """Bytes of one layer's bits: padded to whole 32-bit words."""
    return (J + 31) // 32 * 4


def pack(sample_bits):
    """Booleans [n, L, J] → uint8 [n, L * layer_bytes(J)]: neuron j is bit j % 8 of byte j // 8 of its layer."""
    sample_bits = np.asarray(sample_bits, dtype=bool)
    n, L, J = sample_bits.shape
    codes = np.zeros((n, L, layer_bytes(J)), dtype=np.uint8)
    for j in range(J):
        codes[:, :, j // 8] |= sample_bits[:, :, j].astype(np.uint8) << np.uint8(j % 8)
    return codes.reshape(n, -1)


def unpack(codes, L, J):
    """The inverse of pack: uint8 [n, L * layer_bytes(J)] → booleans [n, L, J]; the padding must be zero."""
    codes = np.asarray(codes, dtype=np.uint8)
    if codes.shape[1] != L * layer_bytes(J):
        raise ValueError(f"rows of {codes.shape[1]} bytes, {L} layers of {J} neurons need {L * layer_bytes(J)}")
    wide = codes.reshape(len(codes), L, layer_bytes(J))
    every = np.stack([(wide[:, :, j // 8] >> np.uint8(j % 8)) & 1 for j in range(8 * layer_bytes(J))], axis=-1)
    if every[:, :, J:].any():
        raise ValueError("a padding bit is set")
    return every[:, :, :J].astype(bool)
