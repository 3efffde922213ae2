"""LoRA folders: weights of an adapter, which are added to those of a base model that lies elsewhere.

The adapter stays beside the base's weights, in peft's own modules, as it was trained: merged, the sum would be rounded
to the base's type, or could not be had at all of a quantised one.
"""

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nait_fast.errors import BadInput, first_line, missing_extra
from nait_fast.models.head import class_with_head
from nait_fast.models.spec import text_decoder

FILE = "adapter_config.json"
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "model.safetensors.index.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_INSIDE = "base_model.model."  # what peft puts before the base's names
_MERGE = (
    "merge the two first, with peft: PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(FOLDER), and pass that folder"
)


@dataclass(frozen=True)
class Adapter:
    """``called``: what the user calls it; ``source``: its folder or Hub id; ``base``: its model's folder or Hub id."""

    called: str
    source: str
    base: str
    settings: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"--model {self.called}"

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer is: its own, which may know more tokens than the base's, or else the base's."""
        return self.source if holds_tokenizer(self.source) else self.base

    def class_for(self, config: Any, named_class: Any) -> Any:
        """transformers' class of the model that the adapter was trained in, by whose modules its weights are named:
        its own word for it, else what wrote the base (``named_class``), unless that is a body alone."""
        import transformers

        if self.settings.get("task_type") == "FEATURE_EXTRACTION":
            return transformers.AutoModel
        own = (self.settings.get("auto_mapping") or {}).get("base_model_class")
        kind = getattr(transformers, str(own), None)
        return class_with_head(config, named_class) if kind is None else kind

    def put_into(self, whole: Any) -> None:
        """Put the adapter into the layers of its base ``whole``, on the device where each is. Raises NaitError for
        weights that have no place there, or places that have no weights."""
        from peft import PeftConfig, PeftModel

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of missing weights, which are told below
                config = PeftConfig.from_pretrained(self.source)
                config.inference_mode = True
                adapted = PeftModel(whole, config)
                renamed = getattr(whole, "_checkpoint_conversion_mapping", {})
                result = adapted.load_adapter(self.source, "default", torch_device="cpu", key_mapping=renamed)
        except Exception as error:  # peft raises anything from OSError to KeyError here
            raise BadInput(
                f"the adapter does not fit its base model {self.base} ({first_line(error)})",
                where=self.where,
                remedy=_MERGE,
            ) from None
        for keys, what in ((result.missing_keys, "lacks"), (result.unexpected_keys, "has more than its base takes:")):
            if within := _within(keys, whole):
                raise BadInput(
                    f"the adapter {what} {len(within)} weights, first {within[0]}",
                    where=self.where,
                    remedy=f"is {self.base} the model that it was trained on? Else {_MERGE}",
                )


def _within(keys: Sequence[str], whole: Any) -> list[str]:
    """Those of ``keys`` that are of the text decoder of ``whole``, by their names there."""
    decoder = text_decoder(whole)
    place = next((name + "." if name else "" for name, module in whole.named_modules() if module is decoder), "")
    names = (key.removeprefix(_INSIDE) for key in keys)
    return sorted(name.removeprefix(place) for name in names if name.startswith(place))


def holds_tokenizer(name: str) -> bool:
    """Whether ``name`` is a folder with a tokenizer in it."""
    return any((Path(name).expanduser() / file).is_file() for file in _TOKENIZER)


def adapter_of(model: str) -> Adapter | None:
    """The adapter at ``model`` (a folder or Hub id); None for what is none. Raises NaitError for one that cannot be
    read, before anything is loaded."""
    path = Path(model).expanduser()
    file = path / FILE if path.is_dir() else None if path.exists() else _on_the_hub(model)
    if file is None or not file.is_file():
        return None
    where = f"--model {model}"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        kind, base = str(settings.get("peft_type")).upper(), str(settings["base_model_name_or_path"] or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"its {FILE} cannot be read ({first_line(error)})", where=where) from None
    if path.is_dir() and (path / "config.json").is_file() and any(any(path.glob(name)) for name in _WEIGHTS):
        raise BadInput(
            f"an adapter of {base or 'a base model'} beside a whole model: which of them is meant is not known",
            where=where,
            remedy=f"remove {FILE} if the model is meant, its weights and config.json if the adapter is",
        )
    _refuse_kind(kind, settings, base, where)
    _refuse_base(base, settings, where)
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "lora", f"an adapter of {base}, which needs peft", where)
    return Adapter(model, str(path) if path.is_dir() else model, base, settings)


def _on_the_hub(model: str) -> Path | None:
    """The settings of an adapter on the Hub, or here from there."""
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        return None
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        file = find_adapter_config_file(model)
    except Exception:  # no valid id, or whatever the Hub says: loading will tell
        return None
    return None if file is None else Path(file)


def _refuse_kind(kind: str, settings: Mapping[str, Any], base: str, where: str) -> None:
    """Raise NaitError for adapters that are more, or something else, than numbers added to weights."""
    name = base or "a base model"
    if kind != "LORA":
        raise BadInput(
            f"an adapter of {name} of the kind {kind[:40]}; LoRA's alone are read", where=where, remedy=_MERGE
        )
    for key in ("alora_invocation_tokens", "arrow_config"):  # which tokens it acts on depends on the text
        if settings.get(key):
            raise BadInput(
                f"an adapter of {name} that acts on some tokens only ({key}); it is not supported", where=where
            )


def _refuse_base(base: str, settings: Mapping[str, Any], where: str) -> None:
    """Raise NaitError for a base model that cannot be found."""
    anew = f"write the folder that it lies in into {FILE} as base_model_name_or_path"
    if not base:
        raise BadInput(f"{FILE} does not name its base model", where=where, remedy=anew)
    path = Path(base).expanduser()
    if not path.exists() and (base.startswith((".", "/", "~")) or base.count("/") > 1 or "\\" in base):
        raise BadInput(f"an adapter of {base}, which is not there", where=where, remedy=anew)
    if path.exists() and not (path / "config.json").is_file():
        raise BadInput(f"an adapter of {base}, which is no model's folder", where=where, remedy=anew)
    if (path / FILE).is_file():
        raise BadInput(f"an adapter of {base}, which is an adapter, too", where=where, remedy=_MERGE)
    revision = settings.get("revision")
    if not path.exists() and revision not in (None, "", "main"):
        raise BadInput(
            f"an adapter of {base} at revision {revision}, where main alone is read",
            where=where,
            remedy=f"fetch that revision and {anew}",
        )


def state_of_adapters(body: Any, unread: tuple[str, ...] = ()) -> dict[str, Any]:
    """By layer's name what the weights do not tell of its adapters: which are on, and how strong.

    ``unread``: beginnings of the names of layers that do not count.
    """
    return {
        name: _described(module)
        for name, module in body.named_modules()
        if not {"base_layer", "original_module"}.isdisjoint(module._modules)
        and hasattr(module, "active_adapters")
        and not f"{name}.".startswith(unread)
    }


def _described(module: Any) -> dict[str, Any]:
    names = (*getattr(module, "other_param_names", ()), "token_indices")
    tables = {name: table for name in names if isinstance(table := getattr(module, name, None), dict)}
    return {
        "kind": type(module).__name__,
        "active": list(module.active_adapters),
        "off": bool(getattr(module, "disable_adapters", False)),
        "merged": list(getattr(module, "merged_adapters", ())),
        "of": getattr(module, "parameter_name", None),
        "variant": {key: type(value).__name__ for key, value in getattr(module, "lora_variant", {}).items()},
        **{name: {str(k): v for k, v in table.items() if _is_plain(v)} for name, table in tables.items()},
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) or (isinstance(value, list) and all(map(_is_plain, value)))
