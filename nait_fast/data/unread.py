"""What is said of a row's text that is not read: keys that no format knows, and what a template does not show."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from nait_fast.notices import warn
from nait_fast.storage.tally import OTHERS, capped

# Keys that say what a row is, where it is from and how good it is; docs/data.md lists them. A key also counts as
# metadata that ends in one of _METADATA_ENDS or begins with one of _METADATA_BEGINS ("__", "unnamed: ": columns that
# pandas adds).
METADATA = frozenset(
    """
    id ids idx index key row row_id uuid guid uid hash sha sha1 sha256 md5 fingerprint
    source sources src origin dataset datasets dataset_name subset split config corpus collection repo file filename
    file_name path url urls link links href website domain domains topic topics subject subjects category categories
    subcategory subcategories genre field area cluster group task tasks task_name type kind format style label labels
    tag tags keywords flag flags class classes skill skills capability ability
    lang langs language languages locale country license licence copyright author authors annotator annotators
    username user_name worker model models model_name generator engine teacher version revision release
    date dates time timestamp created updated modified published year month created_at updated_at
    score scores rating ratings rank quality difficulty reward rewards vote votes upvotes likes confidence
    probability perplexity weight weights loss train num_turns length num_tokens n_tokens status stats
    metadata meta extra_info attention_mask token_type_ids position_ids loss_mask special_tokens_mask
    tool_call_id call_id finish_reason finish_reasons stop_reason stop_reasons
    verified langdetect resource cache_control used_in used_in_training nait_error
    """.split()  # noqa: SIM905 - a list of so many words is easier to read so
)
_METADATA_ENDS = tuple(
    """
    _id _ids _id_list _uuid _uid _hash _md5 _sha256 _url _urls _link _path _file _source _sources _dataset _subset
    _split _name _category _categories _topic _domain _type _label _labels _tag _tags _lang _language _locale _license
    _author _model _models _generator _version _date _time _timestamp _at _score _scores _rating _ratings _rank
    _quality _difficulty _reward _count _counts _length _index _idx _status _weight _mask _flag _ip _valid
    """.split()  # noqa: SIM905
)
_METADATA_BEGINS = ("__", "is_", "has_", "unnamed: ")
_NO_TEXTS = ("on", "off", "null", "nan", "n/a")  # switches, and what tables write where there is nothing
# What a rendered conversation holds beside its texts: Alpaca's prompts, marks of chat templates, names of roles.
_FRAMES = (
    "Below is an instruction that describes a task, paired with an input that provides further context.",
    "Below is an instruction that describes a task.",
    "Write a response that appropriately completes the request.",
)
_MARKS = re.compile(
    r"<[^<>\s]{1,40}>|\[/?[A-Z_]{1,20}\]|\b(?:system|user|human|assistant|gpt|tool|instruction|input|output|response)\b",
    re.IGNORECASE,
)
_KEPT_KEYS = 100  # of a row
_SAID_KEYS = 20  # as many are said one by one
_COPY_CHARACTERS = 20  # a text as long as this that is part of what was read is no other text


@lru_cache(maxsize=4096)
def is_metadata(key: str) -> bool:
    """Whether a key of this name says something about a row rather than something of it."""
    for name in (key.lower(), _CAMEL.sub("_", key).lower()):
        if name in METADATA or name.startswith(_METADATA_BEGINS) or name.endswith(_METADATA_ENDS):
            return True
    return False


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where avatarUrl has its next word


@lru_cache(maxsize=4096)
def candidates(keys: tuple[str, ...], read: frozenset[str]) -> tuple[str, ...]:
    """Those of a row's ``keys`` that may hold text which ``read`` leaves unread."""
    return tuple(key for key in keys if key not in read and isinstance(key, str) and not is_metadata(key))


def unread_of(row: Mapping[str, Any], read: frozenset[str], texts: Iterable[str]) -> tuple[str, ...]:
    """Keys of ``row``, in its order, that hold text, are not among those ``read``, are no metadata, and say more than
    the ``texts`` that were read, which are in the order of the conversation."""
    # Rows of very many keys have keys of their own each: to keep them would fill the memory.
    keys = (candidates if len(row) <= _KEPT_KEYS else candidates.__wrapped__)(tuple(row), read)
    if not keys:
        return ()
    keys_unread: list[str] = []
    said: list[str] = []
    said_once: set[str] | None = None
    whole = ""
    for key in keys:
        values = [text for value in texts_in(row[key]) if (text := value.strip()) and text.lower() not in _NO_TEXTS]
        if not values:
            continue
        if said_once is None:
            said = [text.strip() for text in texts]
            said_once = set(said)
            whole = "\0".join(sorted(said_once))
        for value in values:
            copied = len(value) >= _COPY_CHARACTERS and (value in whole or _renders(value, said))
            if value not in said_once and not copied:
                keys_unread.append(key)
                break
    return tuple(keys_unread)


def _renders(value: str, said: Iterable[str]) -> bool:
    """Whether ``value`` is made of texts that were ``said``, in their order, and of what a template writes around."""
    around, at = [], 0
    for text in said:
        if text and (start := value.find(text, at)) >= 0:
            around.append(value[at:start])
            at = start + len(text)
    left = "\n".join([*around, value[at:]])
    if len(value) - len(left) < len(left) and len(left) > 1000:
        return False  # mostly something else
    for frame in _FRAMES:
        left = left.replace(frame, "")
    return at > 0 and not any(character.isalnum() for character in _MARKS.sub(" ", left))


def texts_in(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a value: a string, those of a list, of an object, of a turn what is said; a mark for bytes."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes) and value:
        yield "(bytes)"  # a picture or a sound: no text, but nothing that says something of the row either
    elif isinstance(value, Mapping) and depth < 50:
        said = [key for key in ("content", "value") if key in value]
        for key in said if said and ("role" in value or "from" in value) else value:
            yield from texts_in(value[key], depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 50:
        for item in value:
            yield from texts_in(item, depth + 1)


def counted(unread_of_rows: Iterable[tuple[str, ...]]) -> dict[str, int]:
    """Key -> rows, as ``capped``; long keys are cut, what cannot be printed in them is replaced."""
    counts: Counter[str] = Counter()
    for keys in unread_of_rows:
        if keys:
            counts.update(map(_shown, keys))
    return capped(counts)


def _flag(key: str) -> str:
    plain = key.replace("-", "").replace("_", "").isalnum()
    return f"--ignore{'=' if key[0] == '-' else ' '}{key if plain else shlex.quote(key)}"


def as_argument(key: str) -> str:
    """What silences ``key`` in Python."""
    return f"ignore=[{key!r}]"


def warn_unread(
    where: str,
    unread: Mapping[str, int],
    unshown: Mapping[str, int],
    ignore: Iterable[str],
    remedy: Callable[[str], str] = _flag,
) -> None:
    """Say once of each key, unless it is to be ignored, how many rows of ``where`` hold it to no effect; ``remedy``:
    what silences a key, as whoever asked would write it."""

    def silenced(key: str) -> str:
        return f"; {remedy(key)} silences this" if key else ""  # which no option names

    ignored = set(ignore)
    left = sorted(unread.keys() - ignored - {OTHERS}, key=lambda key: (-unread[key], key))
    if len(left) > _SAID_KEYS:
        names = ", ".join(f"'{key}'" for key in left[:5])
        warn(f"{where}: text under {len(left):,} keys or more is not read, mostly {names}; are these its rows?")
        unread = {}
    for key, rows in unread.items():
        if key not in ignored:
            warn(f"{where}: {_rows(rows)} '{key}', which is not read{silenced(key)}")
    for key, rows in unshown.items():
        if key not in ignored:
            warn(
                f"{where}: {_rows(rows)} '{key}', which the template does not show the model (all or part of "
                f"it){silenced(key)}"
            )


def _rows(rows: int) -> str:
    return "1 row holds" if rows == 1 else f"{rows:,} rows hold"


@lru_cache(maxsize=4096)
def _shown(key: str) -> str:
    text = "".join(c if c.isprintable() else "\ufffd" for c in key[:60])
    return text if len(key) <= 60 else text[:59] + "…"
