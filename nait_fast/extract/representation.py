"""What an index keeps of a sample: codec with its settings, reading and embeddings, as the options ask."""

from collections.abc import Mapping
from typing import Any

import torch

from nait_fast.codecs import codec_of
from nait_fast.codecs.base import Codec, Columns
from nait_fast.codecs.codebook import Codebook, check_codebook
from nait_fast.config import IndexOptions
from nait_fast.errors import BadInput
from nait_fast.extract.calibrate import make_codebook
from nait_fast.extract.session import Session
from nait_fast.extract.sinks import Collect, Encode
from nait_fast.index.format import columns_of

MOST_EXPERT_BYTES = 64 << 10  # a sample, of one bit a neuron


class Representation:
    """``given``: the codebook of ``--codebook``; ``held``: that of the index which is added to or repaired, whose sizes
    hold unless others are asked for. Tells ``session`` the layer of ``--embed``. Raises NaitError for options that do
    not fit the model or the codebook.

    ``readings``: what the index pass must capture; ``description``: what the manifest says of the codes;
    ``layout``: where their bits lie in a row.
    """

    def __init__(self, session: Session, options: IndexOptions, given: Codebook | None, held: Codebook | None = None):
        self.session, self._options = session, options
        chosen = options.chosen_codec
        self.codec = codec_of(chosen.name)
        self.reading = self.codec.reading(options.reading)
        session.embed_layer = _embed_layer(options, self.codec, session)
        if given is not None:
            self._check(given)
        self._embeds = session.embed_layer is not None
        self.readings = {self.reading} | ({"hidden"} if self._embeds else set())
        _check_width(session)
        self.layout = self.codec.code_layout(session.model.widths)
        self.description: dict[str, Any] = {
            "codec": self.codec.name,
            "reading": self.reading,
            **session.identity(),
            **self.codec.described(chosen.settings, options, session.layout, given or held),
        }
        if self._embeds:
            self.description |= {"embedding": session.hidden_width, "embed_layer": session.embed_layer}

    @property
    def columns(self) -> Columns:
        """What comes with the codes; see ``columns_of``."""
        return columns_of(self.description)

    def _check(self, codebook: Codebook) -> None:
        if not self.codec.calibrates:
            raise BadInput(f"codec {self.codec.name} has no codebook", where="--codebook", remedy="leave the flag out")
        expected = {**self.session.identity(), "reading": self.reading, "codec": self.codec.name}
        if self.session.embed_layer is not None:
            expected["embed_layer"] = self.session.embed_layer
        more = [key for key in ("reading", "codec", "embed_layer") if key in expected]
        remedy = "recalibrate (leave --codebook out) or use the same options"
        check_codebook(codebook, expected, f"--codebook {self._options.codebook}", remedy, more)

    def codebook_of(self, collected: Collect) -> Codebook:
        """The codebook of a calibration sample. Raises NaitError."""
        meta = self.session.identity()
        if self._embeds:
            meta["embed_layer"] = self.session.embed_layer
        return make_codebook(collected, self.reading, meta, self.codec, self.description, self._options.seed)

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
        return Encode(n, layout, coder, directions=directions, hidden_mean=hidden_mean, device=device)


def _check_width(session: Session) -> None:
    """Raises NaitError for experts of more neurons than a row, and calibration, can hold."""
    kept = session.layout.row_bytes
    if session.model.has_experts and kept > MOST_EXPERT_BYTES:
        router = session.model.router_bytes
        raise BadInput(
            f"its experts have {session.layout.n_neurons:,} neurons, {kept >> 10:,} KiB a sample even at one bit each",
            where=f"model {session.model.name}",
            remedy=f"use --experts router ({router:,} bytes a sample), or fewer layers (--layers)",
        )


def _embed_layer(options: IndexOptions, codec: Codec, session: Session) -> int | None:
    """The layer of ``--embed``. Raises NaitError for one that is not captured."""
    layers = [spec.layer for spec in session.model.specs]
    if options.embed == "none":
        return None
    if not codec.calibrates:
        raise BadInput(
            f"codec {codec.name} has no codebook to centre embeddings by", where="--embed", remedy="use another codec"
        )
    if options.embed != "last" and options.embed not in map(str, layers):
        raise BadInput(
            f"write none, last or one of the captured layers ({layers[0]} to {layers[-1]})",
            where=f"--embed {options.embed[:80]}",
        )
    return layers[-1] if options.embed == "last" else int(options.embed)
