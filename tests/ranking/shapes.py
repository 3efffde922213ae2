"""Rows in the shapes that published data has. Their text is made of words that begin with w."""

from typing import Any

Row = dict[str, Any]


def turns(*said: tuple[str, str], names: tuple[str, str] = ("role", "content")) -> list[Row]:
    return [dict(zip(names, turn, strict=True)) for turn in said]


def old(*said: tuple[str, str]) -> list[Row]:
    return turns(*said, names=("from", "value"))


TOOLS = '[{"name": "wtool", "parameters": {}}]'

# name -> (rows, what the entry says among other things)
CARRIED: dict[str, tuple[list[Row], Row]] = {
    "alpaca, each optional column in some row only": (
        [
            {"instruction": "w1", "output": "w2"},
            {"instruction": "w3", "input": "w4", "output": "w5", "system": "w6"},
            {"instruction": "w7", "input": None, "output": "w8", "history": [["w9", "w10"], ["w11", "w12"]]},
            {"instruction": "w13", "output": "w14", "tools": TOOLS},
        ],
        {
            "columns": {
                "prompt": "instruction",
                "query": "input",
                "response": "output",
                "system": "system",
                "history": "history",
                "tools": "tools",
            }
        },
    ),
    "dolly": (
        [
            {"instruction": "w1", "context": "", "response": "w2"},
            {"instruction": "w3", "context": "w4", "response": "w5"},
        ],
        {"columns": {"prompt": "instruction", "query": "context", "response": "response"}},
    ),
    "query and response with history": (
        [
            {"system": "w1", "query": "w2", "response": "w3", "history": []},
            {"system": "w1", "query": "w4", "response": "w5", "history": [["w6", "w7"]]},
        ],
        {"columns": {"prompt": "query", "response": "response", "system": "system", "history": "history"}},
    ),
    "OpenOrca": (
        [
            {"id": "1", "system_prompt": "", "question": "w1", "response": "w2"},
            {"id": "2", "system_prompt": "w3", "question": "w4", "response": "w5"},
        ],
        {"columns": {"prompt": "question", "response": "response", "system": "system_prompt"}},
    ),
    "sharegpt": (
        [
            {"conversations": old(("human", "w1"), ("gpt", "w2"))},
            {"conversations": old(("system", "w3"), ("human", "w4"), ("gpt", "w5"), ("human", "w6"), ("gpt", "w7"))},
            {"conversations": old(("human", "w8"), ("gpt", "w9")), "system": "w10"},
        ],
        {
            "columns": {"messages": "conversations", "system": "system"},
            "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
        },
    ),
    "sharegpt with calls": (
        [
            {
                "conversations": old(("human", "w1"), ("function_call", "w2"), ("observation", "w3"), ("gpt", "w4")),
                "tools": TOOLS,
            }
        ],
        {
            "columns": {"messages": "conversations", "tools": "tools"},
            "tags": {"function_tag": "function_call", "observation_tag": "observation"},
        },
    ),
    "conversations of role and content": (
        [{"conversations": turns(("user", "w1"), ("assistant", "w2"))}],
        {"tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
    ),
    "conversations from user and assistant": (
        [{"conversation": old(("user", "w1"), ("assistant", "w2"))}],
        {
            "columns": {"messages": "conversation"},
            "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"},
        },
    ),
    "names with capitals": (
        [{"conversations": old(("Human", "w1"), ("Assistant", "w2"))}],
        {"tags": {"user_tag": "Human", "assistant_tag": "Assistant"}},
    ),
    "messages with tool turns": (
        [
            {
                "messages": turns(
                    ("system", "w1"), ("user", "w2"), ("assistant", "w3"), ("tool", "w4"), ("assistant", "w5")
                )
            }
        ],
        {"columns": {"messages": "messages"}, "tags": {"observation_tag": "tool", "system_tag": "system"}},
    ),
    "no tools, as an empty list": (
        [{"messages": turns(("user", "w1"), ("assistant", "w2")), "tools": []}],
        {"columns": {"messages": "messages"}},
    ),
    "text": ([{"text": "w1 w2"}], {"columns": {"prompt": "text"}}),
}

# name -> (rows, what --columns and --roles say of them, what the entry says among other things)
MAPPED: dict[str, tuple[list[Row], dict[str, list[str]], Row]] = {
    "columns of a table of text": (
        [{"q": "w1", "a": "w2", "sys": "w3", "n": "1"}, {"q": "w4", "a": "w5", "sys": None, "n": "2"}],
        {"columns": ["prompt=q,response=a,system=sys"]},
        {"columns": {"prompt": "q", "response": "a", "system": "sys"}},
    ),
    "an instruction with what it is about": (
        [{"task": "w1", "about": "", "gold": "w2"}, {"task": "w3", "about": "w4", "gold": "w5"}],
        {"columns": ["instruction=task,input=about,output=gold"]},
        {"columns": {"prompt": "task", "query": "about", "response": "gold"}},
    ),
    "roles of their own": (
        [
            {
                "dialog": turns(("Client", "w1"), ("Agent", "w2"), ("sensor", "w3"), ("Agent", "w4")),
                "functions": TOOLS,
                "rules": "w5",
            }
        ],
        {
            "columns": ["messages=dialog,tools=functions,system=rules"],
            "roles": ["Client=user,Agent=assistant,sensor=environment"],
        },
        {
            "columns": {"messages": "dialog", "tools": "functions", "system": "rules"},
            "tags": {"user_tag": "Client", "assistant_tag": "Agent", "observation_tag": "sensor"},
        },
    ),
    "text under another name": ([{"body": "w1 w2"}], {"columns": ["text=body"]}, {"columns": {"prompt": "body"}}),
}

# name -> (rows, part of the reason)
NOT_CARRIED: dict[str, tuple[list[Row], str]] = {
    "prompt and completion of turns": (
        [{"prompt": turns(("user", "w1")), "completion": turns(("assistant", "w2"))}],
        "prompt and completion as text only",
    ),
    "several formats": (
        [{"instruction": "w1", "output": "w2"}, {"messages": turns(("user", "w3"), ("assistant", "w4"))}],
        "several formats",
    ),
    "flat keys of two kinds": (
        [{"instruction": "w1", "output": "w2"}, {"prompt": "w3", "completion": "w4"}],
        "the prompt column 'instruction' and 'prompt'",
    ),
    "two names of a role": (
        [{"conversations": old(("human", "w1"), ("gpt", "w2"))}, {"conversations": old(("user", "w3"), ("gpt", "w4"))}],
        "the user role 'human' and 'user'",
    ),
    "calls beside turns": (
        [
            {
                "messages": [
                    *turns(("user", "w1")),
                    {
                        "role": "assistant",
                        "content": "w2",
                        "tool_calls": [{"type": "function", "function": {"name": "w3", "arguments": "{}"}}],
                    },
                ]
            }
        ],
        "does not read 'tool_calls' of a turn",
    ),
    "reasoning": (
        [{"messages": [*turns(("user", "w1")), {"role": "assistant", "content": "w2", "reasoning_content": "w3"}]}],
        "does not read 'reasoning_content'",
    ),
    "tools that are objects": (
        [{"messages": turns(("user", "w1"), ("assistant", "w2")), "tools": [{"name": "w3"}]}],
        "tools as JSON text only",
    ),
    "content in parts": (
        [{"messages": [{"role": "user", "content": [{"type": "text", "text": "w1"}]}, *turns(("assistant", "w2"))]}],
        "content as text only",
    ),
    "turns out of turn": (
        [{"messages": turns(("user", "w1"), ("user", "w2"), ("assistant", "w3"))}],
        "leaves out rows whose turns",
    ),
    "a system turn in the middle": (
        [
            {
                "messages": turns(
                    ("user", "w1"), ("assistant", "w2"), ("system", "w3"), ("user", "w4"), ("assistant", "w5")
                )
            }
        ],
        "leaves out rows whose turns",
    ),
    "several texts beside the instruction": (
        [{"instruction": "w1", "input": "w2", "question": "w3", "output": "w4"}],
        "one text beside the instruction",
    ),
    "turns as JSON text": (
        [{"messages": '[{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]'}],
        "as lists, and the rows hold JSON text",
    ),
    "history as JSON text": (
        [{"query": "w1", "response": "w2", "history": '[["w3", "w4"]]'}],
        "as lists, and the rows hold JSON text",
    ),
    "token ids": ([{"input_ids": [1, 2]}], "no rows of token ids"),
}
