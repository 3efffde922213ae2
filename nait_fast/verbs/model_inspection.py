"""``inspect`` of a model: what would be read of it, what that costs, and what is not supported, without its weights."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, AutoModel

from nait_fast.codecs import CODECS, codec_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import IndexOptions
from nait_fast.env import pick_device
from nait_fast.errors import BadInput, NaitError, first_line
from nait_fast.extract.pooling import statistics_for
from nait_fast.extract.representation import MOST_EXPERT_BYTES, kept_by_default
from nait_fast.index.format import bytes_per_row
from nait_fast.models.adapters import Adapter, adapter_of
from nait_fast.models.checkpoint import heard, named_class
from nait_fast.models.experts import RoutedSpec, refuse_statistics
from nait_fast.models.find import decoder_layers
from nait_fast.models.float8 import NAME as FLOAT8
from nait_fast.models.float8 import layers_to_quantise
from nait_fast.models.gguf_file import parsed_once
from nait_fast.models.load import trained_positions, without_bars
from nait_fast.models.locate import locate
from nait_fast.models.packing_checks import expected_path
from nait_fast.models.quantised import EXPERTS_TO_DEQUANTISE, quantiser, refuse_unreadable
from nait_fast.models.spec import MlpSpec, Spec, text_config
from nait_fast.models.unloaded import find_unloaded

_WIDTH = 80  # of a line of text
_DTYPES = {"float32": 4, "bfloat16": 2}


def inspect_model(name: str) -> dict[str, Any]:
    """What ``name`` is, by its configuration: ``supported``, or else ``not_supported``, the one line of why. Raises
    NaitError for a configuration that cannot be read."""
    summary: dict[str, Any] = {"path": name, "kind": "model"}
    try:
        adapter = adapter_of(name)
    except NaitError as error:
        return _shown({**summary, "kind": "adapter", "supported": False, "not_supported": _why(error)})
    if adapter is not None:
        summary |= {"kind": "LoRA adapter", "base": adapter.base}
    source, extra = locate(name if adapter is None else adapter.base)
    try:
        with without_bars(), heard(), parsed_once(bool(extra)):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **extra)  # else it asks, and waits
    except Exception as error:  # transformers raises anything from OSError to KeyError here
        raise BadInput(f"its configuration cannot be read ({first_line(error)})", where=name) from None
    written_by = named_class(config)
    summary["model_type"] = getattr(config, "model_type", None)
    summary["class"] = getattr(written_by, "__name__", None)
    method = "gguf" if extra else quantiser(config)
    if method is not None:
        summary["quantised"] = method
    summary |= _read_of(config, written_by, adapter)
    if method is not None:
        summary["loaded_dequantised"] = method in ("gguf", "compressed-tensors", "metal") or (
            method in EXPERTS_TO_DEQUANTISE and bool(summary.get("experts"))
        )
    if (method not in (None, "gguf") or adapter is not None) and "memory" in summary:
        summary["memory"].pop(FLOAT8, None)  # which takes neither
    if not extra and summary["supported"] is not False:
        try:
            with heard():
                refuse_unreadable(config, pick_device("auto"), "")
        except NaitError as error:
            summary |= {"supported": False, "not_supported": _why(error)}
    return _shown(summary)


def _read_of(config: Any, written_by: Any, adapter: Adapter | None) -> dict[str, Any]:
    kinds = (AutoModel, written_by) if adapter is None else (adapter.class_for(config, written_by),)
    try:
        with heard():
            found = find_unloaded(config, [kind for kind in kinds if kind is not None])
    except NaitError as error:
        return {"supported": False, "not_supported": _why(error)}
    if found is None:
        return {"supported": None, "not_supported": "transformers cannot build it from its configuration alone"}
    return {"supported": True, **_described(found.decoder, found.specs)}


def _why(error: NaitError) -> str:
    return str(error.replace(where=""))


def _described(decoder: Any, specs: Sequence[Spec]) -> dict[str, Any]:
    """Of a ``decoder`` on the meta device."""
    config = text_config(decoder)
    widths = [spec.n_neurons for spec in specs]
    routed = [spec.n_experts for spec in specs if isinstance(spec, RoutedSpec)]
    kept, code_widths = None, widths
    if routed and CodeLayout.of(widths).row_bytes > MOST_EXPERT_BYTES:
        kept = kept_by_default(specs)
        code_widths = [min(kept, spec.n_neurons) if isinstance(spec, RoutedSpec) else spec.n_neurons for spec in specs]
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    memory = {dtype: parameters * size for dtype, size in _DTYPES.items()}
    if in_float8 := sum(linear.weight.numel() for _, linear in layers_to_quantise(decoder, specs)[0]):
        memory[FLOAT8] = memory["bfloat16"] - in_float8
    experts = sorted({(spec.n_experts, spec.width) for spec in specs if isinstance(spec, RoutedSpec)})
    every = decoder_layers(decoder)
    return {
        "decoder": type(decoder).__name__,
        "families": sorted({spec.family.examples for spec in specs if isinstance(spec, MlpSpec)}),
        "layers": len({spec.layer for spec in specs}),
        "layers_in_all": len(every),
        # What looks at images runs on no text, which a forward alone proves.
        "layers_that_may_not_run": sorted(
            {spec.layer for spec in specs if "CrossAttention" in type(every[spec.layer]).__name__}
        ),
        "hidden_size": specs[0].hidden_width,
        "widths": widths,
        "neurons": sum(widths),
        "experts": [list(pair) for pair in experts],
        "positions": trained_positions(config),
        "forward": expected_path(decoder),
        "parameters": parameters,
        "memory": memory,
        "experts_keep": kept,
        "bytes_per_sample": _codes(specs, code_widths),
        "bytes_per_sample_of_router": _codes(specs, routed) if routed else {},
    }


def _codes(specs: Sequence[Spec], widths: Sequence[int]) -> dict[str, int | str]:
    """Codec with its default settings -> bytes that it keeps of a sample, or why it keeps none. ``widths``: of what is
    read of ``specs``."""
    layout, sizes = CodeLayout.of(widths), dict[str, int | str]()
    for name in CODECS:
        codec = codec_of(name)
        options = IndexOptions.from_mapping({"model": "-", "dataset": "-", "output": "-", "codec": name})
        try:
            refuse_statistics(specs, statistics_for([codec.default_reading]))
        except NaitError:  # which says what to do instead
            sizes[name] = "its reading is of dense MLPs"
            continue
        try:
            described = codec.described(options.chosen_codec.settings, options, layout, None)
        except NaitError as error:
            sizes[name] = error.what
            continue
        row = codec.code_layout(widths).row_bytes
        sizes[name] = bytes_per_row({"codec": name, "widths": list(widths), "row_bytes": row, **described})
    return sizes


def _shown(summary: dict[str, Any]) -> dict[str, Any]:
    """``summary``, and its ``text`` for a terminal."""
    lines = [(key, text) for key, value in _lines(summary) if (text := str(value))]
    return {**summary, "text": "\n".join(_wrapped(f"{key}:", text) for key, text in lines)}


def _lines(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    kind = f"{summary['kind']} of {summary['base']}" if "base" in summary else summary["kind"]
    names = [str(n) for n in (summary.get("model_type"), summary.get("class"), summary.get("decoder")) if n]
    lines = [("path", summary["path"]), ("kind", kind), ("type", ", ".join(dict.fromkeys(names)))]
    unpacked = ", loaded dequantised" if summary.get("loaded_dequantised") else ""
    lines.append(("quantised", summary.get("quantised", "") + unpacked))
    if "widths" in summary:
        less = "" if summary.get("loaded_dequantised", True) else " (less where it stays quantised)"
        memory = ", ".join(f"{dtype} {_size(size)}" for dtype, size in summary["memory"].items())
        experts = ", ".join(f"{n:,} of them a layer, of {width:,} neurons each" for n, width in summary["experts"])
        parts = [f"{n:,} × {width:,}" for width, n in Counter(summary["widths"]).items()]
        parts = parts if len(parts) <= 4 else [f"{min(summary['widths']):,} to {max(summary['widths']):,} each"]
        positions, read, of = summary["positions"], summary["layers"], summary["layers_in_all"]
        kept = summary["experts_keep"]
        kept = "" if kept is None else f" (of {kept:,} neurons of each layer's experts)"
        layers = f"{read} are read" if read == of else f"{read} of {of} are read, the others have no MLP"
        lines += [
            ("layers", f"{layers}; hidden size {summary['hidden_size']:,}"),
            ("not on text", _idle(summary["layers_that_may_not_run"])),
            ("MLPs as in", "; ".join(summary["families"])),
            ("neurons", f"{summary['neurons']:,} ({' + '.join(parts)})"),
            ("experts", experts),
            ("positions", "" if positions is None else f"{positions:,}"),
            ("forward", summary["forward"]),
            ("decoder", f"{summary['parameters']:,} parameters; {memory}{less}"),
            ("bytes a sample", _listed(summary["bytes_per_sample"]) + kept),
            ("of the router", _listed(summary["bytes_per_sample_of_router"])),
        ]
    lines.append(("supported", {True: "yes", False: "no", None: "unknown"}[summary["supported"]]))
    lines.append(("why not" if summary["supported"] is False else "note", summary.get("not_supported", "")))
    return lines


def _listed(sizes: Mapping[str, int | str]) -> str:
    return ", ".join(f"{name} {n:,}" if isinstance(n, int) else f"{name} none ({n})" for name, n in sizes.items())


def _idle(layers: Sequence[int]) -> str:
    if not layers:
        return ""
    named = f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"
    return f"{named} with cross-attention, to images say: left out if a trial when it is loaded agrees"


def _size(n_bytes: int) -> str:
    if n_bytes < 1e6:
        return f"{n_bytes / 1e3:,.0f} kB"
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.0f} MB"


def _wrapped(key: str, text: str) -> str:
    wrap = textwrap.TextWrapper(_WIDTH, f"{key:<16}", " " * 16, break_long_words=False, break_on_hyphens=False)
    return wrap.fill(text)
