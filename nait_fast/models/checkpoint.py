"""Reads a checkpoint into a model and sees to it that all that is read of the model later was in the checkpoint.

transformers fills what a checkpoint lacks with random numbers, leaves out what it does not know and says so in a log
that nobody reads. Here both are errors where they concern the part of the model that runs.
"""

import importlib.util
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from nait_fast.errors import BadInput, NaitError, first_line, is_out_of_memory
from nait_fast.models.adapters import Adapter
from nait_fast.models.experts import RoutedSpec
from nait_fast.models.find import decoder_layers
from nait_fast.models.gguf_file import leading_tensors
from nait_fast.models.guard import refuse_absent
from nait_fast.models.head import class_with_head, head_weights
from nait_fast.models.leading import with_leading_layers
from nait_fast.models.quantised import prepare_quantised, quantisation, quantiser, refuse_unreadable
from nait_fast.models.spec import Spec, text_config, text_decoder
from nait_fast.models.unloaded import Find, Unloaded, find_unloaded, unloaded
from nait_fast.models.weight_cache import checkpoint_of
from nait_fast.notices import warn

# What wrappers put into the names of weights: torch.compile, DataParallel, FSDP, checkpointing, Lightning, PEFT.
WRAPPERS = (
    "_orig_mod.",
    "module.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "_forward_module.",
    "base_model.model.",
)
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:" + "|".join(re.escape(w) for w in WRAPPERS) + ")")
# Names that checkpoints hold though no forward needs them: masks and angles made anew, scales of a quantised cache.
_NEEDLESS = re.compile(
    r"(rotary_emb|rotary|rotary_embedding)\.inv_freq$|position_ids$|\.masked_bias$|(^|\.)attn\.bias$|(^|\.)attention\.bias$"
    r"|\.[kv]_scale$|\.[kv]_proj\.output_scale$|\.[kqv]_zero_point$"
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|blk)\.(\d+)\.")
# What of transformers' log a user must see: of the weights, of what the configuration makes of them, of the tokens.
_ABOUT_WEIGHTS = re.compile(
    r"weight|checkpoint|quanti|initiali[sz]|state.dict|parameter|shard|tied?\b|rope|model of type", re.IGNORECASE
)
WRONG_TOKENS = re.compile(r"incorrect|wrong|mismatch|unexpected|not the same|differ", re.IGNORECASE)


@dataclass
class Loading:
    """What differs between checkpoint and model, by the names in the model's text decoder, the part that runs.

    ``missing``: parameters, of quantised weights buffers too, that the checkpoint lacks; ``unexpected``: what it holds
    and the decoder has no place for; ``mismatched``: (name, stored shape, the model's shape); ``head``: parameters of
    the language-model head, by their names in the whole model, that it lacks or has in another shape; ``complete``: all
    layers have been read, not only the first; ``not_alone``: why, where the first alone were asked for; ``hint``: what
    to do about it.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    complete: bool = True
    not_alone: str = ""
    hint: str = "fetch or save the checkpoint anew, whole and with the config.json that belongs to it"

    @property
    def clean(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def check_head(self, model: str) -> None:
        """Raise NaitError where the language-model head is not the checkpoint's."""
        if self.head:
            raise BadInput(
                f"the checkpoint lacks {self.head[0]}, of the language-model head, or has it in another shape; losses "
                "need it",
                where=f"--model {model}",
                remedy="use the checkpoint of the causal language model",
            )

    def check(self, model: str, body: Any, last: int) -> None:
        """Raise NaitError where a weight of a layer up to ``last`` or outside of the layers is not the checkpoint's.

        What is missing behind ``last``, which no reading needs, is said and becomes zero: random, it would be another
        model each time.
        """
        if self.mismatched:
            name, stored, needed = self.mismatched[0]
            raise BadInput(
                f"the checkpoint holds {name} as {list(stored)} where the configuration asks for {list(needed)} "
                f"(weights of this kind: {len(self.mismatched)})",
                where=f"--model {model}",
                remedy=self.hint,
            )
        missing = [name for name in self.missing if layer_of(name) <= last]
        if missing:
            raise BadInput(
                f"the checkpoint lacks {len(missing)} weights of the layers, embeddings or norms that run, first "
                f"{missing[0]}",
                where=f"--model {model}",
                remedy=self.hint,
            )
        if self.unexpected:
            raise BadInput(
                f"the checkpoint holds {len(self.unexpected)} weights that this model has no place for, first "
                f"{self.unexpected[0]}",
                where=f"--model {model}",
                remedy=self.hint,
            )
        if self.missing:
            warn(
                f"--model {model}: the checkpoint lacks {len(self.missing)} weights behind the chosen layers, first "
                f"{self.missing[0]}: they are not read, and zero"
            )
            named = (body.named_parameters(remove_duplicate=False), body.named_buffers(remove_duplicate=False))
            tensors = dict(chain(*named))
            with torch.no_grad():
                for name in self.missing:
                    tensors[name].zero_()


def layer_of(name: str) -> int:
    """The decoder layer that a weight belongs to, -1 outside of the layers."""
    layer = _LAYER.search(name)
    return int(layer[1]) if layer else -1


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _compare(model: Any, info: dict[str, Any], called: str) -> Loading:
    """``info``, transformers' own words about a load, less what is outside of the text decoder of ``model``."""
    decoder = text_decoder(model)
    place = next((name + "." if name else "" for name, module in model.named_modules() if module is decoder), "")
    needed = {name for name, _ in decoder.named_parameters(remove_duplicate=False)}
    within = sorted((k.removeprefix(place) for k in info["missing_keys"] if k.startswith(place)), key=_natural)
    if quantisation(model.config) is not None:  # a quantiser keeps scales, or all of a weight, as buffers
        needed |= {name for name, _ in decoder.named_buffers(remove_duplicate=False)}
    if buffers := [name for name in within if name not in needed]:
        warn(
            f"--model {called}: the checkpoint lacks {len(buffers)} buffers of the model, first {buffers[0]}: "
            "they have their initial values"
        )
    roots = {name for name, _ in decoder.named_children()} | {
        name for name, _ in decoder.named_parameters(recurse=False)
    }
    base = getattr(model, "base_model_prefix", "") or ""
    unexpected = []
    for key in sorted(info["unexpected_keys"], key=_natural):
        bare = _WRAPPED.sub("", key)
        names = {n.removeprefix(place) for n in (bare, bare.removeprefix(base + ".")) if n.startswith(place)}
        in_decoder = (n for n in names if n.split(".")[0] in roots or n.startswith("blk."))  # blk: GGUF's own name
        name = next(in_decoder, None)
        if name is not None and not _NEEDLESS.search(name):
            unexpected.append(name if bare == key else key)
    mismatched = sorted(
        (k.removeprefix(place), tuple(a), tuple(b)) for k, a, b in info["mismatched_keys"] if k.startswith(place)
    )
    not_loaded = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    head = sorted(not_loaded & head_weights(model), key=_natural)
    return Loading([name for name in within if name in needed], unexpected, mismatched, head)


def _prefix_before(unexpected: Sequence[str], missing: Sequence[str]) -> str | None:
    """What stands before a missing name in the checkpoint's name of it."""
    wanted = max(missing, key=len, default="")
    return next((key.removesuffix(wanted) for key in unexpected if wanted and key.endswith(wanted)), None)


@contextmanager
def heard() -> Iterator[list[logging.LogRecord]]:
    """transformers' warnings of the block, whatever its verbosity; nothing of them is printed."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    from transformers.utils import logging as theirs

    theirs.get_verbosity()  # makes its logger, with the verbosity asked for
    logger = logging.getLogger("transformers")
    level, handlers, propagate = logger.level, logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Keep(logging.WARNING)], False
    logger.setLevel(logging.WARNING)
    try:
        yield records
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def _from_pretrained(cls: Any, source: str, **named: Any) -> tuple[Any, dict[str, Any], list[logging.LogRecord]]:
    """(model, transformers' loading info, its warnings); raises what it raises."""
    with heard() as records:
        try:
            model, info = cls.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **named)
        except Exception as error:
            if "above report" in str(error) and (why := _reported(records)):
                raise RuntimeError(why) from error
            raise
    return model, info, records


def tell(what: str, records: Sequence[logging.LogRecord], wanted: re.Pattern[str]) -> None:
    """Say what transformers' log says and ``wanted`` matches, but for the loading report, which becomes an error."""
    texts = dict.fromkeys(" ".join(record.getMessage().split()) for record in records)
    for text in texts:
        if wanted.search(text) and "LOAD REPORT" not in text:
            warn(f"{what}: transformers says: {text[:300]}")


def _reported(records: Sequence[logging.LogRecord]) -> str | None:
    """The reason in a loading report that an error only points to."""
    text = "\n".join(record.getMessage() for record in records if "LOAD REPORT" in record.getMessage())
    key = re.search(r"^Error: (.*)$", text, re.MULTILINE) or re.search(
        r"^(\S.*?)\s*\|\s*CONVERSION", text, re.MULTILINE
    )
    why = re.search(r"^\s*(\w*(?:Error|Exception)\b(?!: .* on tensors destined).*)$", text, re.MULTILINE)
    parts = [match[1].strip()[:160] for match in (key, why) if match]
    return ": ".join(parts) if parts else None


def named_class(config: Any) -> Any:
    """transformers' class that wrote the checkpoint, by its configuration."""
    import transformers

    return next(
        (c for n in getattr(config, "architectures", None) or [] if (c := getattr(transformers, n, None))), None
    )


def read_model(
    model: str,
    source: str,
    extra: dict[str, str],
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool,
    find: Find,
    adapter: Adapter | None,
    before: Callable[[Any, list[Spec]], None],
    head: bool = False,
    leading: bool = False,
) -> tuple[Any, Loading]:
    """The model at ``source`` as transformers loads it, its decoder on ``device``; how it and the checkpoint agree.

    AutoModel's class first (a body without LM head); where that is not the class the checkpoint was written from and
    does not find its weights, the one that config.json names; for an ``adapter``, the one it was trained in. ``head``:
    the class with a language-model head instead, which is on ``device``, too, with all of the model. Wrappers'
    prefixes are taken off the weights' names, and that is said. ``find`` finds what is read of a model; ``before``
    takes the text decoder on the meta device and that. ``leading``: the layers up to the last one that ``find`` finds
    will do, and where that goes without any doubt they are all that is read and kept. Raises NaitError: what they raise
    before a weight is read, as far as the configuration tells.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    named: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code, **extra}
    try:
        auto, other, early = AutoModelForCausalLM if head else AutoModel, None, list[logging.LogRecord]()
        found: Unloaded | None = None
        if not extra:  # a GGUF file names no class, and reading it once more would take seconds
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
            other = named_class(config)
            if adapter is not None:
                auto, other = adapter.class_for(config, other), None
            elif head and not trust_remote_code:
                auto, other = class_with_head(config, other), None
            found = None if trust_remote_code else _found_early(config, (auto, other), find)
            if device.type != "cpu" and quantisation(config) is None and _goes_straight(found, head, adapter):
                named["device_map"] = {"": device}
            with heard() as early:
                refuse_unreadable(config, device, f"--model {model}")
            if found is not None:
                before(found.decoder, found.specs)
            if prepare_quantised(config, device, named, experts=found is not None and _any_routed(found.specs)):
                warn(
                    f"--model {model}: its experts are kept as {quantiser(config)}, in whose kernels no activation "
                    "shows; the model is loaded dequantised"
                )
        elif leading and not trust_remote_code:
            config = AutoConfig.from_pretrained(source, **extra)
            found = _found_early(config, (auto,), find)
        part: Any = ""
        if leading and found is not None and adapter is None and not head and (extra or quantisation(config) is None):
            part = _read_leading(model, found, source, named)
        whole, loading, records = _attempt(model, auto, other, source, named) if isinstance(part, str) else part
        loading.not_alone = part if isinstance(part, str) else ""
    except NaitError:
        raise
    except Exception as error:  # transformers raises anything from OSError to KeyError here
        what = "" if adapter is None else f"its base model {adapter.base} "
        remedy = "install that package" if isinstance(error, ImportError) else "check the name and the files"
        raise BadInput(
            f"{what}cannot be loaded ({first_line(error)})", where=f"--model {model}", remedy=remedy
        ) from None
    if "gguf_file" in extra:
        loading.unexpected += _left_in_gguf(Path(source) / extra["gguf_file"], text_decoder(whole), loading.complete)
        loading.hint = "transformers does not read all of this GGUF file: use the model's safetensors"
    elif quantisation(config) is None:
        _check_stored(model, source, whole)
    tell(f"--model {model}", [*early, *records], _ABOUT_WEIGHTS)
    if adapter is not None:
        adapter.put_into(whole)
    body = text_decoder(whole)
    run = whole if head else body
    _one_dtype(run, dtype)
    if not extra and quantisation(config) is not None:
        _stored_in_fp32(whole, body, dtype)
    refuse_absent(body, model)
    if any(tensor.device != device for tensor in run.parameters()):
        run.to(device)
    return whole, loading


def _check_stored(called: str, source: str, whole: Any) -> None:
    """Of a checkpoint whose configuration tells of no quantisation: raise NaitError for weights that it holds as
    integers, which transformers takes for the numbers themselves; say which are fp8, and where one model lies beside
    another."""
    folder = checkpoint_of(source)
    if folder is None or not folder.is_dir():
        return
    files = _weight_files(folder, getattr(whole.config, "transformers_weights", None))
    if files == [folder / "model.safetensors"] and (folder / "model.safetensors.index.json").is_file():
        warn(
            f"--model {called}: holds model.safetensors and, by model.safetensors.index.json, a model in several "
            "files: the first is read; remove the other"
        )
    floats = {name for name, tensor in whole.named_parameters() if tensor.is_floating_point()}
    base = (getattr(whole, "base_model_prefix", "") or "") + "."
    stored: dict[str, list[str]] = {"integers": [], "float8": []}
    for name, dtype in (entry for file in files for entry in _stored_types(file)):
        bare = _WRAPPED.sub("", name)
        if not floats.isdisjoint((bare, bare.removeprefix(base), base + bare)):
            kind = "float8" if dtype.startswith("F8") else "integers" if dtype[0] in "IU" else None
            if kind is not None:
                stored[kind].append(name)
    if names := sorted(stored["integers"], key=_natural):
        raise BadInput(
            f"the checkpoint holds {len(names)} weights as integers, first {names[0]}, but its config.json tells of no "
            "quantisation (quantization_config), so what they stand for is not known",
            where=f"--model {called}",
            remedy="fetch the config.json that belongs to it",
        )
    if names := sorted(stored["float8"], key=_natural):
        warn(
            f"--model {called}: {len(names)} weights are stored as float8, first {names[0]}, and config.json tells of "
            "no quantisation: they are taken as they are, without scales"
        )


def _weight_files(folder: Path, named: str | None) -> list[Path]:
    """The files that transformers reads a folder's weights from. ``named``: the one that its configuration names."""
    order = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    for name in (named,) if named else order:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        try:
            return sorted({folder / part for part in json.loads(file.read_bytes())["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the library has read it
            return []
    return []


def _stored_types(file: Path) -> Iterator[tuple[str, str]]:
    """(name, type as safetensors calls it) of a file's tensors."""
    if file.suffix != ".safetensors":
        yield from _pickled_types(file)
        return
    try:
        with open(file, "rb") as raw:
            header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, str(entry["dtype"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the library has read it
        return


def _pickled_types(file: Path) -> Iterator[tuple[str, str]]:
    """As ``_stored_types``, of a file of torch's own; its tensors are not read."""
    try:
        stored = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # the library has read it, in whatever way
        warn(f"{file}: not checked for weights that are kept as integers ({first_line(error)})")
        return
    for name, tensor in stored.items() if isinstance(stored, Mapping) else ():
        if isinstance(tensor, torch.Tensor):
            kind = str(tensor.dtype).removeprefix("torch.")
            yield str(name), "F8" if kind.startswith("float8") else kind.upper()


def _any_routed(specs: Sequence[Spec]) -> bool:
    return any(isinstance(spec, RoutedSpec) for spec in specs)


def _found_early(config: Any, kinds: Sequence[Any], find: Find) -> Unloaded | None:
    """The model without weights, and what ``find`` finds in it; None: only loading tells. Raises NaitError."""
    with heard():  # nothing of this is about the weights
        return find_unloaded(config, [kind for kind in kinds if kind is not None], find)


def _goes_straight(found: Unloaded | None, head: bool, adapter: Adapter | None) -> bool:
    """Whether from_pretrained may put all of the model on a device itself: all of it runs there."""
    alone = found is not None and (head or found.decoder is found.model)
    return alone and adapter is None and importlib.util.find_spec("accelerate") is not None


def _read_leading(
    called: str, found: Unloaded, source: str, named: dict[str, Any]
) -> tuple[Any, Loading, list[logging.LogRecord]] | str:
    """As ``_attempt``, of a model with its layers up to the last of ``found.specs`` alone; why not, where that does not
    load without a word, for the whole model's load says what is wrong, and "" where there are no others."""
    kind, number = type(found.model), found.specs[-1].layer + 1

    def layers_of(model: Any) -> Any:
        return decoder_layers(text_decoder(model))

    every = len(layers_of(found.model))
    if number >= every:
        return ""
    try:
        with leading_tensors(number) if "gguf_file" in named else nullcontext():
            model, info, records = _from_pretrained(
                with_leading_layers(kind, number, layers_of), source, config=found.model.config, **named
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return first_line(error)
    model.__class__ = kind
    loading = _compare(model, info, called)
    loading.complete = False
    loading.unexpected = [name for name in loading.unexpected if not number <= layer_of(name) < every]
    return (model, loading, records) if loading.clean else "their weights are not just those stored"


def _attempt(
    called: str, auto: Any, named_class: Any, source: str, named: dict[str, Any]
) -> tuple[Any, Loading, list[logging.LogRecord]]:
    try:
        model, info, records = _from_pretrained(auto, source, **named)
    except (ValueError, RuntimeError) as error:
        unknown = "Unrecognized configuration class" in str(error)
        # A quantiser may know the weights by the names that the class which wrote them gives them (torchao).
        fails = isinstance(error, RuntimeError) and not is_out_of_memory(error)
        if named_class is None or not (unknown or fails):
            raise
        auto = named_class
        try:
            model, info, records = _from_pretrained(auto, source, **named)
        except Exception:  # of two failures the first is the better message
            if unknown:
                raise
            raise error from None
    loading = _compare(model, info, called)
    if any(_WRAPPED.search(key) for key in info["unexpected_keys"]) and loading.missing:
        # each name may be wrapped more than once, and a mapping renames once
        named = {**named, "key_mapping": {f"(?:){{{i}}}" + _WRAPPED.pattern: "" for i in range(4)}}
        wrapped = sorted({match[0] for key in info["unexpected_keys"] for match in _WRAPPED.finditer(key)})
        del model
        model, info, records = _from_pretrained(auto, source, **named)
        again = _compare(model, info, called)
        if len(again.missing) < len(loading.missing):
            taken = ", ".join(wrapped)
            warn(f"--model {called}: the checkpoint's names hold {taken} (of a wrapped or compiled model): taken off")
        loading = again
    if not loading.clean and named_class is not None and named_class not in (auto, type(model)):
        try:
            other, others_info, others_records = _from_pretrained(named_class, source, **named)
        except Exception:  # what AutoModel's class lacks is the better message
            other = None
        if other is not None and (better := _compare(other, others_info, called)).clean:
            return other, better, others_records
    if before := _prefix_before(info["unexpected_keys"], loading.missing):
        loading.hint = f"its names begin with '{before}': save the checkpoint without that"
    elif lora := next((key for key in info["unexpected_keys"] if "lora_" in key), None):
        loading.hint = (
            f"it holds LoRA weights ({lora}): merge them into the base (peft's merge_and_unload) and save that"
        )
    return model, loading, records


def _one_dtype(run: Any, dtype: torch.dtype) -> None:
    """What a quantiser unpacked into another half precision gets ``dtype``; fp32 that a model keeps stays."""
    halves = (torch.bfloat16, torch.float16)
    for module in run.modules():
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None and tensor.dtype in halves and tensor.dtype != dtype:
                    tensor.data = tensor.data.to(dtype)


def _stored_in_fp32(whole: Any, body: Any, dtype: torch.dtype) -> None:
    """Give ``dtype`` to parameters of a quantised checkpoint that are fp32 since they, or their scales, are stored so.

    Those stay that the class makes fp32 or asks to keep so, and those of modules that a quantiser has put in.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        plain = dict(text_decoder(unloaded(whole.config, type(whole))).named_modules())
    except Exception:  # a class that cannot be made without weights: what it keeps in fp32 is not known
        return
    finally:
        torch.set_default_dtype(before)
    for place, module in body.named_modules():
        made = plain.get(place)
        for key, parameter in module._parameters.items():
            asked = getattr(made, key, None)
            if type(made) is not type(module) or type(parameter) is not torch.nn.Parameter or asked is None:
                continue
            if parameter.dtype == torch.float32 != asked.dtype and not _kept_in_fp32(whole, f"{place}.{key}", dtype):
                parameter.data = parameter.data.to(dtype)


def _kept_in_fp32(whole: Any, name: str, dtype: torch.dtype) -> bool:
    """Whether the class of ``whole`` asks for ``name`` to stay fp32 in a model of ``dtype``."""
    patterns = set(getattr(whole, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        patterns |= set(getattr(whole, "_keep_in_fp32_modules", None) or ())
    return any(re.search(pattern, name) for pattern in patterns)


def _left_in_gguf(path: Path, decoder: Any, complete: bool = True) -> list[str]:
    """Tensors of a GGUF file that transformers passes over in silence though they belong to the body, which is not
    ``complete`` where the first layers alone have been read.

    Factors of RoPE (Llama 3.1 and later keep theirs in a tensor only), and whatever its layers hold beyond what the
    model has a place for.
    """
    try:
        from transformers.integrations.gguf.reader import read_gguf_metadata
    except ImportError:  # an older transformers
        warn(f"{path}: not checked for tensors that transformers leaves out: its version is too old for that")
        return []
    metadata, names = read_gguf_metadata(str(path))
    left = [name for name in names if name.startswith(("rope_freqs", "rope_factors"))]
    rope = getattr(text_config(decoder), "rope_parameters", None) or {}
    scaling = f"{metadata['general.architecture']}.rope.scaling.type"
    if metadata.get(scaling, "none") != "none" and rope.get("rope_type", "default") == "default":
        left.append(scaling)
    of_layers = [layer for name in decoder.state_dict() if (layer := layer_of(name)) >= 0]
    blocks = [name for name in names if name.startswith("blk.") and "nextn" not in name]
    if not complete:
        blocks = [name for name in blocks if layer_of(name) <= max(of_layers)]
    takes = len(of_layers)
    if len(blocks) > takes and not any(hasattr(module, "experts") for module in decoder.modules()):
        left.append(f"blk.* ({len(blocks)} tensors for {takes} places)")
    return left
