"""NAG's integer planes against its float definition, and contrast's planes against float weights."""

import numpy as np
import pytest

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.methods.contrast import contrast_signature
from nait_fast.methods.nag import nag_signature
from nait_fast.ranking.scan import score_codes
from nait_fast.ranking.spearman import spearman
from tests import naive

WIDTHS = [72, 72, 72, 72]


def meta() -> dict:
    return {
        "widths": WIDTHS,
        "layers": [0, 1, 2, 3],
        "model": "m",
        "template": "t",
        "reading": "up_abs",
        "first_token": "exclude",
        "top_k": 20,
    }


@pytest.mark.parametrize("n_target", [2, 37, 300])
def test_nag_ranks_as_the_float_profile_does(n_target):
    generator = np.random.default_rng(n_target)
    common = generator.random((1, 4, 72))
    target = common + 0.7 * generator.random((n_target, 4, 72))
    pool = common * generator.random((200, 1, 1)) + 0.7 * generator.random((200, 4, 72))
    sets = [naive.nag_sets(sample, 20) for sample in pool]

    def bits(readings):
        out = np.zeros(readings.shape, dtype=bool)
        for i, sample in enumerate(readings):
            for layer, chosen in enumerate(naive.nag_sets(sample, 20)):
                out[i, layer, list(chosen)] = True
        return out.reshape(len(readings), -1)

    signature = nag_signature("t", bits(target), meta())
    got = score_codes(CodeLayout.of(WIDTHS).pack(bits(pool)), [signature])[:, 0]
    profile = naive.nag_profile([naive.nag_sets(sample, 20) for sample in target])
    expected = np.array([naive.nag_similarity(s, profile) for s in sets])
    assert np.allclose(got, expected, rtol=1e-12, atol=0)
    assert spearman(got, expected) >= 0.999


@pytest.mark.parametrize("planes, least", [(4, 0.99), (8, 0.9999)])
def test_contrast_planes_rank_as_the_float_weights_do(planes, least):
    generator = np.random.default_rng(0)
    n = sum(WIDTHS)
    lean = generator.normal(0, 0.15, n)
    pool = generator.random((400, n)) < 0.5 + 0.5 * np.outer(generator.random(400), lean)
    target = generator.random((64, n)) < 0.5 + lean
    codebook = Codebook(
        frequency=pool.mean(axis=0).astype(np.float32),
        meta={**meta(), "codec": "neuron", "reading": "mean", "samples": 400},
        threshold=np.zeros(n, dtype=np.float32),
    )
    signature = contrast_signature("t", target, codebook, planes=planes)
    got = score_codes(CodeLayout.of(WIDTHS).pack(pool), [signature])[:, 0]
    assert spearman(got, pool @ signature.tensors["weights"].astype(np.float64)) >= least
