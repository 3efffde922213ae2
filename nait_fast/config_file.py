"""Reads the YAML of ``--config``: a flat mapping of options, as ``config.yaml`` of an output is."""

import re
from typing import Any

from nait_fast.errors import BadInput, NaitError
from nait_fast.options import Options

MOST_BYTES = 1 << 20
DEEPEST = 4  # the mapping, a list in it, and a list or mapping that it may hold by mistake, which is then named


def read_config(path: str, options: type[Options]) -> dict[str, Any]:
    """What the file asks for beside the defaults of ``options``. Raises NaitError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if len(data) > MOST_BYTES:
        raise BadInput(
            f"larger than {MOST_BYTES:,} bytes, so no config of options",
            where=f"--config {path}",
            remedy="check the path",
        )
    return options.beside_defaults(_parsed(path, data))


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    import yaml

    class Flat(yaml.SafeLoader):
        """Without what options have no use for: depth, aliases, and a key twice."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not taken; write the value out")
            if self.depth == DEEPEST:
                raise yaml.YAMLError("nested too deep; options are values or lists of values")
            self.depth += 1
            try:
                return super().compose_node(parent, index)
            finally:
                self.depth -= 1

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) != len(node.value):
                raise yaml.YAMLError("a key is there twice")
            return mapping

    def plain_number(loader: Flat, node: yaml.ScalarNode) -> Any:
        # YAML 1.1 takes 12:30 for 750 and 017 for 15.
        if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            raise yaml.YAMLError(f"write {node.value[:40]} as a plain number, or as text in quotes")
        of = yaml.SafeLoader.construct_yaml_int if node.tag.endswith(":int") else yaml.SafeLoader.construct_yaml_float
        return of(loader, node)

    for tag in ("int", "float"):
        Flat.add_constructor(f"tag:yaml.org,2002:{tag}", plain_number)
    try:
        values = yaml.load(data.decode(), Flat)
    except Exception as error:  # PyYAML's constructors raise anything for a bad date, number or tag
        raise _unreadable(path, error) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadInput("must be a mapping of options", where=f"--config {path}")
    return values


def _unreadable(path: str, error: Exception) -> NaitError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return BadInput(f"cannot be read ({reason})", where=f"--config {path}")
