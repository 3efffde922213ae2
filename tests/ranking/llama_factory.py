"""What LLaMA-Factory makes of a row under an entry of ``dataset_info.json``, as its converters for Alpaca rows and for
ShareGPT turns do (data/converter.py there, which tests/integrations runs beside this)."""

from typing import Any

Turns = list[tuple[str, str]]  # (role, content)


def read_row(entry: dict[str, Any], row: dict[str, Any]) -> tuple[str, Turns, str]:
    """(system prompt, turns, tools) of ``row``; no turns where LLaMA-Factory leaves it out. A row that lacks a column
    has null there, as in a table."""
    columns = {name: row.get(key) for name, key in entry["columns"].items()}
    system, tools = columns.get("system") or "", columns.get("tools") or ""
    if entry.get("formatting", "alpaca") == "alpaca":
        turns = [
            turn for pair in columns.get("history") or [] for turn in zip(("user", "assistant"), pair, strict=True)
        ]
        asked = "\n".join(text for text in (columns.get("prompt"), columns.get("query")) if text)
        turns.append(("user", asked))
        return system, [*turns, *([("assistant", columns["response"])] if "response" in columns else [])], tools
    tags = entry["tags"]
    roles = {
        tags.get("user_tag"): "user",
        tags.get("observation_tag"): "observation",
        tags.get("assistant_tag"): "assistant",
        tags.get("function_tag"): "function",
    }
    said = [(turn[tags["role_tag"]], turn[tags["content_tag"]]) for turn in columns["messages"]]
    if said and said[0][0] == tags.get("system_tag"):
        system, said = said[0][1], said[1:]
    for number, (role, _) in enumerate(said):
        if roles.get(role) not in (("user", "observation"), ("assistant", "function"))[number % 2]:
            return system, [], tools
    return system, [(roles[role], text) for role, text in said] if len(said) % 2 == 0 else [], tools
