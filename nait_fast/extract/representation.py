"""What an index keeps of a sample: codec with its settings, reading and embeddings, as the options ask."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nait_fast.codecs import codec_of
from nait_fast.codecs.base import Codec, Columns
from nait_fast.codecs.chosen import CHOSEN, CHOSEN_BY
from nait_fast.codecs.codebook import Codebook, check_codebook
from nait_fast.config import IndexOptions
from nait_fast.errors import BadInput
from nait_fast.extract.calibrate import make_codebook
from nait_fast.extract.session import Terms
from nait_fast.extract.sinks import Collect, Encode
from nait_fast.index.format import columns_of, loss_columns
from nait_fast.kernels import layer_bytes
from nait_fast.models.experts import RoutedSpec
from nait_fast.models.spec import Spec
from nait_fast.notices import warn

MOST_EXPERT_BYTES = 64 << 10  # a sample, of one bit a neuron
KEPT_BYTES = 48 << 10  # a sample, where experts' neurons are chosen
LEAST_KEPT = 256  # neurons of experts a layer, however wide other layers are


class Representation:
    """``given``: the codebook of ``--codebook``; ``held``: that of the index which is added to or repaired, whose sizes
    hold unless others are asked for. Tells ``session``, or what is known before there is one, the layer of ``--embed``
    and which neurons of experts are kept. Raises NaitError for options that do not fit the model or the codebook.

    ``readings``: what the index pass must capture; ``description``: what the manifest says of the codes;
    ``layout``: where their bits lie in a row.
    """

    def __init__(self, session: Terms, options: IndexOptions, given: Codebook | None, held: Codebook | None = None):
        self.session, self._options = session, options
        chosen = options.chosen_codec
        self.codec = codec_of(chosen.name)
        self.reading = self.codec.reading(options.reading)
        session.embed_layer = _embed_layer(options, self.codec, session)
        self._embeds, self._rds = session.embed_layer is not None, options.embeddings.rds
        self.readings = {self.reading} | ({"hidden"} if self._embeds else set()) | ({"rds"} if self._rds else set())
        self.readings |= set(loss_columns(options.nll))
        session.refuse_readings(self.readings)
        if given is not None:
            check_kept(session, given)
            session.choose(given.chosen, given.meta["widths"])
            self._check(given)
        elif held is not None and held.chosen is not None:
            check_kept(session, held)
            session.choose(held.chosen, held.meta["widths"])
        else:
            _keep_experts(session)
        self.layout = self.codec.code_layout(session.model.widths)
        self.description: dict[str, Any] = {
            "codec": self.codec.name,
            "reading": self.reading,
            **{key: value for key, value in session.identity().items() if key != CHOSEN},  # decided in calibration
            **self.codec.described(chosen.settings, options, session.layout, given or held),
        }
        if self._embeds:
            self.description |= {"embedding": session.hidden_width, "embed_layer": session.embed_layer}
        if self._rds:
            model = session.model
            self.description |= {"rds": self._rds, "rds_width": model.end_width, "rds_model": model.whole_fingerprint}
        if options.nll != "none":
            self.description |= {"nll": options.nll, "nll_model": session.model.head_fingerprint}

    @property
    def columns(self) -> Columns:
        """What comes with the codes; see ``columns_of``."""
        return columns_of(self.description)

    def _check(self, codebook: Codebook) -> None:
        if not self.codec.calibrates:
            raise BadInput(f"codec {self.codec.name} has no codebook", where="--codebook", remedy="leave the flag out")
        expected = {**self.session.identity(codebook.meta), "reading": self.reading, "codec": self.codec.name}
        if self.session.embed_layer is not None:
            expected["embed_layer"] = self.session.embed_layer
        more = [key for key in ("reading", "codec", "embed_layer") if key in expected]
        remedy = "recalibrate (leave --codebook out) or use the same options"
        check_codebook(codebook, expected, f"--codebook {self._options.codebook}", remedy, more)

    def codebook_of(self, collected: Collect, chosen: np.ndarray | None, by: str) -> Codebook:
        """The codebook of a calibration sample, of the neurons ``chosen`` int32 [N] of experts, ``by`` variance or at
        random. Raises NaitError."""
        meta = self.session.identity()
        if chosen is not None:
            meta[CHOSEN_BY] = by
        if self._embeds:
            meta["embed_layer"] = self.session.embed_layer
        return make_codebook(collected, self.reading, meta, self.codec, self.description, self._options.seed, chosen)

    def sink(
        self, n: int, codebook: Codebook | None, directions: Mapping[str, tuple[str, torch.Tensor]] | None
    ) -> Encode:
        """What turns the readings of ``n`` samples into codes, columns and exact scores."""
        hidden_mean = None
        if self._embeds:
            assert codebook is not None and codebook.hidden_mean is not None
            hidden_mean = torch.from_numpy(codebook.hidden_mean)
        layout, device = self.session.layout, self.session.model.device
        coder = self.codec.coder(layout, codebook, self.description, device)
        rds = (self._rds, self.description["rds_width"]) if self._rds else None
        return Encode(
            n,
            layout,
            coder,
            directions=directions,
            hidden_mean=hidden_mean,
            rds=rds,
            nll=self._options.nll,
            device=device,
        )


def check_kept(session: Terms, codebook: Codebook | None) -> None:
    """Raises NaitError where so many neurons of experts are asked for as the model, or ``codebook``, has not."""
    model, kept = session.model, session.experts.kept
    if kept is None:
        return
    where = f"--experts neurons:{kept}"
    if not model.has_experts:
        raise BadInput("no neurons of experts are read of this model", where=where, remedy="leave it out")
    if codebook is None:
        return
    theirs = sorted(zip(codebook.meta["layers"], codebook.meta["widths"], strict=True))
    widths = (model if kept == "all" else model.keeping(kept)).widths
    if [layer for layer, _ in theirs] == sorted(model.layers) and theirs != sorted(
        zip(model.layers, widths, strict=True)
    ):
        raise BadInput("the codebook is of other neurons", where=where, remedy="leave it out")


def _keep_experts(session: Terms) -> None:
    """Tell ``session`` how many neurons of experts are kept: as many as are asked for, or fit into a row. Raises
    NaitError for more than a row, and calibration, can hold."""
    model, kept = session.model, session.experts.kept
    check_kept(session, None)
    if not model.has_experts:
        return
    if by_default := kept is None and session.layout.row_bytes > MOST_EXPERT_BYTES:
        kept = kept_by_default(model.specs)
        warn(
            f"model {model.name}: its layers have {session.layout.n_neurons:,} neurons; an index keeps {kept:,} of the "
            "experts' of each layer"
        )
    if isinstance(kept, int):
        session.keep(kept)
    if (size := session.layout.row_bytes) > MOST_EXPERT_BYTES:
        less = "fewer layers (--layers)" if by_default else "--experts neurons, which keeps some"
        raise BadInput(
            f"its experts have {session.layout.n_neurons:,} neurons, {size >> 10:,} KiB a sample even at one bit each",
            where=f"model {model.name}",
            remedy=f"use {less}, or --experts router ({model.router_bytes:,} bytes a sample)",
        )


def kept_by_default(specs: Sequence[Spec]) -> int:
    """Neurons of experts that are kept of each layer, so that a row of all ``specs`` is about KEPT_BYTES long."""
    routed = [spec for spec in specs if isinstance(spec, RoutedSpec)]
    others = sum(layer_bytes(spec.n_neurons) for spec in specs if not isinstance(spec, RoutedSpec))
    return max(LEAST_KEPT, (KEPT_BYTES - others) // len(routed) * 8 // 32 * 32)


def _embed_layer(options: IndexOptions, codec: Codec, session: Terms) -> int | None:
    """The layer of ``--embed``. Raises NaitError for one that is not captured."""
    layers, layer = session.model.layers, options.embeddings.layer
    if layer is None:
        return None
    if not codec.calibrates:
        raise BadInput(
            f"codec {codec.name} has no codebook to centre embeddings by",
            where="--embed",
            remedy="use another codec (rds needs none)",
        )
    if layer != "last" and layer not in map(str, layers):
        raise BadInput(
            f"write none, last or one of the captured layers ({layers[0]} to {layers[-1]}), or rds; or both: last,rds",
            where=f"--embed {options.embed[:80]}",
        )
    return layers[-1] if layer == "last" else int(layer)
