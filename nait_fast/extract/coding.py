"""What an index keeps of a sample: codec, reading, outliers and embeddings, as the options ask."""

from collections.abc import Mapping
from typing import Any

import torch

from nait_fast.config import IndexOptions
from nait_fast.errors import NaitError
from nait_fast.extract.calibrate import make_codebook
from nait_fast.extract.coders import Coder, NeuronCoder, RotatedCoder, TopKCoder
from nait_fast.extract.component_coder import ComponentCoder, split_bytes
from nait_fast.extract.session import Session
from nait_fast.extract.sinks import Collect, Encode
from nait_fast.index.codebook import Codebook, check_codebook
from nait_fast.index.format import CodeLayout, code_layout, columns_of

BYTES = 1024  # of codec components, unless told (docs/methods.md)
OUTLIERS = 128  # of codec rotated, unless told: 128 bytes a sample (docs/methods.md)


class Coding:
    """``given``: the codebook of ``--codebook``; ``held``: that of the index which is added to or repaired, whose sizes
    hold unless others are asked for. Raises NaitError for options that do not fit the model or the codebook.

    ``readings``: what the index pass must capture; ``description``: what the manifest says of the codes;
    ``layout``: where their bits lie in a row.
    """

    def __init__(self, session: Session, options: IndexOptions, given: Codebook | None, held: Codebook | None = None):
        self.session, self._options = session, options
        self.reading = _reading_of(options)
        session.embed_layer = _embed_layer(options, session)
        if given is not None:
            self._check(given)
        self._embeds = session.embed_layer is not None
        self.readings = {self.reading} | ({"hidden"} if self._embeds else set())
        self.layout: CodeLayout = code_layout(options.codec, session.model.widths)
        self.description: dict[str, Any] = {"codec": options.codec, "reading": self.reading, **session.identity()}
        if options.codec == "nag":
            self.description["top_k"] = options.nag_top_k
            if options.nag_top_k > min(session.model.widths):
                raise NaitError(
                    f"--nag-top-k {options.nag_top_k}: the model's layers have only {min(session.model.widths)} neurons"
                )
        if options.codec == "rotated":
            self.description["outliers"] = self._outliers(given or held)
        if options.codec == "components":
            self.description["components"] = list(self._components(given or held))
        if self._embeds:
            self.description |= {"embedding": session.hidden_width, "embed_layer": session.embed_layer}

    @property
    def columns(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What comes with the codes; see ``columns_of``."""
        return columns_of(self.description)

    def _check(self, codebook: Codebook) -> None:
        if self._options.codec == "nag":
            raise NaitError("--codebook: codec nag has no codebook; leave the flag out")
        expected = {**self.session.identity(), "reading": self.reading, "codec": self._options.codec}
        if self.session.embed_layer is not None:
            expected["embed_layer"] = self.session.embed_layer
        more = [key for key in ("reading", "codec", "embed_layer") if key in expected]
        remedy = "recalibrate (leave --codebook out) or use the same options"
        check_codebook(codebook, expected, f"--codebook {self._options.codebook}", remedy, more)

    def _outliers(self, given: Codebook | None) -> int:
        """How many neurons codec rotated keeps as numbers: the given codebook's, as asked, or the default."""
        asked, there_are = self._options.outliers, self.session.layout.n_neurons
        if given is not None and given.rotation is not None:
            if asked not in (None, len(given.rotation.outliers)):
                raise NaitError(f"--outliers {asked}: that codebook has {len(given.rotation.outliers)}; leave it out")
            return len(given.rotation.outliers)
        if asked is not None and asked > there_are:
            raise NaitError(f"--outliers {asked}: the chosen layers have only {there_are} neurons")
        return min(OUTLIERS, there_are) if asked is None else asked

    def _components(self, given: Codebook | None) -> tuple[int, int]:
        """Components in 8 bits and in 4 of codec components: the given codebook's, or by the bytes that are asked."""
        asked = self._options.bytes_per_sample
        if given is not None and given.components is not None:
            wide, narrow = given.components.numbers
            if asked not in (None, wide + narrow // 2):
                raise NaitError(f"--bytes-per-sample {asked}: that codebook has {wide + narrow // 2}; leave it out")
            return wide, narrow
        wide, narrow = split_bytes(BYTES if asked is None else asked)
        most = sum(min(width, self._options.calibration_size - 1) for width in self.session.model.widths)
        if wide + narrow > most and asked is not None:
            raise NaitError(
                f"--bytes-per-sample {asked}: would be {wide + narrow} components, but {most} is all that "
                "these layers and --calibration-size give"
            )
        # Of a byte come 7 / 4 components: a small model's default is all that there is.
        return (wide, narrow) if wide + narrow <= most else split_bytes(max(1, most * 4 // 7))

    def codebook_of(self, collected: Collect) -> Codebook:
        """The codebook of a calibration sample. Raises NaitError."""
        meta = self.session.identity()
        if self._embeds:
            meta["embed_layer"] = self.session.embed_layer
        outliers = self.description.get("outliers", 0)
        components = self.description.get("components", (0, 0))
        return make_codebook(
            collected, self.reading, meta, self._options.codec, outliers, self._options.seed, components
        )

    def sink(
        self, n: int, codebook: Codebook | None, directions: Mapping[str, tuple[str, torch.Tensor]] | None
    ) -> Encode:
        """What turns the readings of ``n`` samples into codes, columns and exact scores."""
        hidden_mean = None
        if self._embeds:
            assert codebook is not None and codebook.hidden_mean is not None
            hidden_mean = torch.from_numpy(codebook.hidden_mean)
        return Encode(
            n,
            self.session.layout,
            self._coder(codebook),
            directions=directions,
            hidden_mean=hidden_mean,
            device=self.session.model.device,
        )

    def _coder(self, codebook: Codebook | None) -> Coder:
        layout, device = self.session.layout, self.session.model.device
        if codebook is None:
            return TopKCoder(layout, self._options.nag_top_k)
        if codebook.rotation is not None:
            return RotatedCoder(codebook, device)
        if codebook.components is not None:
            return ComponentCoder(codebook, device)
        assert codebook.threshold is not None
        return NeuronCoder(layout, self.reading, torch.from_numpy(codebook.threshold), device)


def _reading_of(options: IndexOptions) -> str:
    """The reading behind the codes: as asked, else the mean for neuron bits and the drift for nait's codecs."""
    if options.codec == "nag":
        return "up_abs"
    return options.reading or ("mean" if options.codec == "neuron" else "drift")


def _embed_layer(options: IndexOptions, session: Session) -> int | None:
    """The layer of ``--embed``. Raises NaitError for one that is not captured."""
    layers = [spec.layer for spec in session.model.specs]
    if options.embed == "none":
        return None
    if options.codec == "nag":
        raise NaitError("--embed: codec nag has no codebook to centre embeddings by; use another codec")
    if options.embed != "last" and options.embed not in map(str, layers):
        raise NaitError(
            f"--embed {options.embed[:80]}: write none, last or one of the captured layers "
            f"({layers[0]} to {layers[-1]})"
        )
    return layers[-1] if options.embed == "last" else int(options.embed)
