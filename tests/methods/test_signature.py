"""Signatures: their integer planes, their files, and the indexes they fit."""

import json
import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import NaitError
from nait_fast.kernels import popcount_scan
from nait_fast.methods import METHODS, method_of
from nait_fast.methods.contrast import contrast_signature
from nait_fast.methods.embed import embed_signature
from nait_fast.methods.nag import nag_signature
from nait_fast.methods.nait import nait_signature
from nait_fast.methods.planes import count_planes, signed_planes, top_m_planes
from nait_fast.methods.signature import Signature, check_fits, load_signature
from nait_fast.ranking.scan import score_codes
from nait_fast.storage.files import pack_tensors, read_tensors

LAYOUT = CodeLayout.of([40, 33])
N = LAYOUT.n_neurons
RNG = np.random.default_rng(0)
IDENTITY = {
    "model": "a" * 32,
    "template": "b" * 32,
    "dtype": "float32",
    "max_length": 512,
    "first_token": "exclude",
    "layers": [0, 1],
    "widths": [40, 33],
}
OLD = {k: v[:16] if k in ("model", "template") else v for k, v in IDENTITY.items() if k not in ("dtype", "max_length")}
CODEBOOK = Codebook(
    frequency=RNG.random(N).astype(np.float32),
    meta={"codec": "neuron", "reading": "mean", "samples": 512, **IDENTITY},
    threshold=RNG.normal(size=N).astype(np.float32),
    scale=np.ones(N, dtype=np.float32),
)
BITS = RNG.random((12, N)) > 0.6


def made(method: str) -> Signature:
    if method == "contrast":
        return contrast_signature("sums", BITS, CODEBOOK)
    if method == "nag":
        sets = np.zeros((6, N), dtype=bool)
        for row, ordinal in product(range(6), range(2)):
            sets[row, LAYOUT.neurons(ordinal)][RNG.permutation(LAYOUT.widths[ordinal])[:5]] = True
        return nag_signature("sums", sets, {**IDENTITY, "reading": "up_abs", "top_k": 5})
    if method == "embed":
        hidden = RNG.normal(size=(6, 8)).astype(np.float32)
        codebook = replace(CODEBOOK, meta={**CODEBOOK.meta, "embed_layer": 1}, hidden_mean=hidden[0])
        return embed_signature("sums", hidden, codebook)
    if method in ("rds", "crds"):
        meta = {**IDENTITY, "reading": "rds", "rds_model": "d" * 32, "target": {}}
        e, asked = RNG.normal(size=(6, 8)).astype(np.float32), method_of(method)
        signature = asked.fit("sums", e, meta, None, asked.settings())
        return replace(signature, tensors={"samples": e, "lengths": np.arange(6, dtype=np.int32)})
    assert method == "nait"
    return nait_signature("sums", RNG.normal(size=(6, N)).astype(np.float32), IDENTITY)


def levels(planes: np.ndarray, weights: np.ndarray, n: int = N) -> np.ndarray:
    """The integer weight of each neuron, as the scan sees it: the score of a code with that bit alone."""
    one = LAYOUT.pack(np.eye(N, dtype=bool))
    return popcount_scan(one, planes, weights, np.zeros(len(planes), dtype=np.int64), 1)[:, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**31), st.sampled_from(["normal", "tiny", "spike", "zero", "negative"]))
def test_signed_planes_are_the_rounded_weights(n_planes: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=N)
    weights = {"tiny": weights * 1e-12, "zero": weights * 0, "negative": -np.abs(weights)}.get(kind, weights)
    if kind == "spike":
        weights[3] = -1e6
    weights = weights.astype(np.float32)
    planes, plane_weights, scale = signed_planes(weights, n_planes, LAYOUT)
    assert planes.shape == (n_planes, LAYOUT.row_bytes) and planes.dtype == np.uint8
    got = levels(planes, plane_weights)
    top = 2 ** (n_planes - 1) - 1
    assert np.abs(got).max() == (0 if kind == "zero" else top)  # both ends of a symmetric range
    # Half a step, and what the quotient, an fp32, is rounded by: at the largest level that is top x 2^-24 steps.
    assert (np.abs(got * scale - weights) <= scale * (0.5 + top * 2.0**-24) * (1 + 1e-9)).all()
    assert (np.sign(got[got != 0]) == np.sign(weights[got != 0])).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31), st.booleans())
def test_top_m_takes_the_strongest_of_each_layer(m: int, seed: int, ties: bool) -> None:
    weights = np.random.default_rng(seed).normal(size=N)
    weights = (np.round(weights) if ties else weights).astype(np.float32)
    planes, plane_weights, scale = top_m_planes(weights, m, LAYOUT)
    got = levels(planes, plane_weights)
    assert scale == 1.0 and set(got) <= {-1, 0, 1}
    for ordinal, width in enumerate(LAYOUT.widths):
        layer, signs = weights[LAYOUT.neurons(ordinal)], got[LAYOUT.neurons(ordinal)]
        strongest = sorted(range(width), key=lambda j: (-abs(layer[j]), j))[:m]
        expected = np.zeros(width)
        expected[strongest] = np.sign(layer[strongest])
        assert (signs == expected).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=N, max_size=N))
def test_count_planes_are_exact(counts: list[int]) -> None:
    planes, plane_weights = count_planes(np.array(counts), LAYOUT)
    assert levels(planes, plane_weights).tolist() == counts
    assert len(planes) == max(1, max(counts).bit_length())


def test_contrast_weights() -> None:
    difference = made("contrast")
    expected = BITS.mean(axis=0) - CODEBOOK.frequency
    np.testing.assert_allclose(difference.tensors["weights"], expected, atol=1e-7)
    assert difference.meta["codebook"] == CODEBOOK.hash and len(difference.tensors["planes"]) == 4
    odds = contrast_signature("sums", BITS, CODEBOOK, weights="logodds", planes=8)
    assert np.isfinite(odds.tensors["weights"]).all()
    always = BITS.copy()
    always[:, 0] = True
    assert contrast_signature("s", always, CODEBOOK, weights="logodds").tensors["weights"][0] > 0
    p, q = (5 + 0.5) / (7 + 0.5), (0.5 * 512 + 0.5) / (0.5 * 512 + 0.5)
    column = np.zeros((12, N), dtype=bool)
    column[:5, 2] = True
    half = Codebook(np.full(N, 0.5, np.float32), CODEBOOK.meta, CODEBOOK.threshold)
    got = contrast_signature("s", column, half, weights="logodds").tensors["weights"][2]
    assert got == pytest.approx(np.log(p) - np.log(q), rel=1e-6)
    assert len(contrast_signature("sums", BITS, CODEBOOK, top_m=3).tensors["planes"]) == 2


def test_a_score_is_the_sum_of_the_weights_of_the_set_bits() -> None:
    signature = contrast_signature("sums", BITS, CODEBOOK, planes=12)
    scores = score_codes(LAYOUT.pack(BITS), [signature])[:, 0]
    exact = BITS @ signature.tensors["weights"].astype(np.float64)
    np.testing.assert_allclose(scores, exact, atol=signature.meta["scale"] * N / 2)
    nag = made("nag")
    np.testing.assert_allclose(score_codes(LAYOUT.pack(BITS), [nag])[:, 0], BITS @ nag.tensors["weights"], rtol=1e-5)
    for layer in range(2):  # NAG's profile weighs 1 a layer, and the score is the mean over layers
        assert nag.tensors["weights"][LAYOUT.neurons(layer)].sum() * 2 == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_file_comes_back_as_it_was(tmp_path: Path, method: str) -> None:
    signature = made(method)
    path = signature.save(tmp_path)
    assert path.name == "sums.safetensors"
    loaded = load_signature(path)
    assert (loaded.name, loaded.meta, loaded.hash) == (signature.name, signature.meta, signature.hash)
    assert loaded.tensors.keys() == signature.tensors.keys()
    for name, tensor in signature.tensors.items():
        assert (loaded.tensors[name] == tensor).all() and loaded.tensors[name].dtype == tensor.dtype
    assert loaded.save(tmp_path / "..").read_bytes() == path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(NaitError) as error:
        load_signature(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_damaged_files_are_refused(tmp_path: Path, method: str) -> None:
    path = made(method).save(tmp_path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    generator = random.Random(0)
    for length in {0, 4, 8, 9, header - 1, header, len(data) - 1, *(generator.randrange(len(data)) for _ in range(30))}:
        path.write_bytes(data[:length])
        refusal(path)
    path.write_bytes(data + b"\0")
    refusal(path)
    for _ in range(300):  # a flip in the header is refused or changes nothing but a value, and never crashes
        flipped = bytearray(data)
        flipped[generator.randrange(header)] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            load_signature(path)
        except NaitError as error:
            assert "\n" not in str(error)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.safetensors")
    assert "is a folder; name a file in it" in refusal(tmp_path)
    CODEBOOK.save(tmp_path)
    assert "is no nait_fast signature" in refusal(tmp_path / "codebook.safetensors")
    path = tmp_path / "x.safetensors"
    for content in (b"", b"{}", b"\x80\x04pickle", b"\xff" * 64, json.dumps({"kind": "signature"}).encode()):
        path.write_bytes(content)
        refusal(path)


HOSTILE = [
    *({"method": value} for value in ("pca", None, [], {}, 3)),
    *({"widths": value} for value in ([40], [], None, "40", [40, 33, 1], [1e999, 33], [-40, 113], [[40], 33], 7)),
    *({key: ...} for key in ("name", "method", "model", "template", "reading", "first_token", "layers", "scale")),
    {"scale": "x"},
    {"codebook": ...},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_hostile_metadata_is_refused(tmp_path: Path, change: dict) -> None:
    tensors, meta = read_tensors(made("contrast").save(tmp_path), "signature")
    meta = {key: value for key, value in {**meta, **change}.items() if value is not ...}
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(pack_tensors(tensors, meta))
    assert "not a valid signature" in refusal(path)


@pytest.mark.parametrize("method", METHODS)
def test_hostile_tensors_are_refused(tmp_path: Path, method: str) -> None:
    tensors, meta = read_tensors(made(method).save(tmp_path), "signature")
    path = tmp_path / "hostile.safetensors"
    for name, array in tensors.items():
        for wrong in (None, array[:-1], array.astype(np.float16), array.reshape(-1, 1), np.zeros((), array.dtype)):
            changed = {k: v for k, v in {**tensors, name: wrong}.items() if v is not None}
            path.write_bytes(pack_tensors(changed, meta))
            refusal(path)
    name = min(tensors)
    path.write_bytes(pack_tensors({**tensors, name: tensors[name].astype(np.uint16)}, meta))
    assert "dtype U16" in refusal(path)


def test_check_fits_says_what_differs() -> None:
    signature = made("contrast")
    check_fits(signature, IDENTITY, CODEBOOK.hash, "index X")
    check_fits(signature, IDENTITY, None, "index X")
    check_fits(made("nait"), IDENTITY, "another", "index X")  # needs no codebook
    for change, codebook, words in (
        ({"model": "c" * 32}, CODEBOOK.hash, "another model (or configuration) ('aaaa"),
        ({"template": "c" * 32}, CODEBOOK.hash, "another template or tokenizer ('bbbb"),
        (
            {"dtype": "half"},
            None,
            "another dtype ('float32') than index X ('bfloat16 or float16'): rebuild it with --dtype bfloat16",
        ),
        ({"max_length": 64}, None, "another max_length (512) than index X (64): rebuild it with --max-length 64"),
        ({"first_token": "include"}, None, "rebuild it with --first-token include"),
        ({"layers": [1, 2]}, None, "another layers ([0, 1]) than index X ([1, 2]): rebuild it with --layers 1,2"),
        ({"widths": [40, 34]}, None, "another widths"),
        ({}, "c1", f"another codebook ({CODEBOOK.hash}) than index X (c1): rebuild it with --codebook"),
    ):
        with pytest.raises(NaitError) as error:
            check_fits(signature, {**IDENTITY, **change}, codebook, "index X")
        assert str(error.value).startswith("signature 'sums' was made with ") and words in str(error.value)


def test_an_old_identity_is_compared_with_an_old_one_only() -> None:
    new = made("nait")
    old = Signature("old", {**{k: v for k, v in new.meta.items() if k not in IDENTITY}, **OLD}, new.tensors)
    check_fits(old, {**OLD, "max_length": 512}, None, "index X")
    with pytest.raises(NaitError, match="another model"):
        check_fits(old, {**OLD, "model": "c" * 16}, None, "index X")
    with pytest.raises(
        NaitError, match=r"signature 'old' was made before all weights, .* cannot be compared with index X"
    ):
        check_fits(old, IDENTITY, None, "index X")
    with pytest.raises(NaitError, match=r"index X was made before .*: rebuild the index"):
        check_fits(new, {**OLD, "max_length": 512}, None, "index X")
