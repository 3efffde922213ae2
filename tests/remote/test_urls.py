"""What may be shown of a URL."""

import pytest

from nait_fast.errors import BadInput
from nait_fast.notices import NaitWarning, warn
from nait_fast.urls import all_without_secrets, is_url, shown, without_secrets


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://host/a/b.jsonl", "https://host/a/b.jsonl"),
        ("https://u:p@host:8/a.jsonl", "https://host:8/a.jsonl"),
        ("https://token@host/a@1.jsonl", "https://host/a@1.jsonl"),
        ("https://u:p/w@host/a", "https://host/a"),
        ("https://host:80/x@y/a", "https://host:80/x@y/a"),
        ("https://host/a.jsonl?X-Amz-Signature=p&x=https://u:p@h", "https://host/a.jsonl?…"),
        ("https://host?sig=p", "https://host?…"),
        ("HTTP://host/a#p?p", "http://host/a?…"),
        ("s3://bucket/a?b=1/c.jsonl", "s3://bucket/a?b=1/c.jsonl"),
        ("s3://u:p@bucket/a", "s3://bucket/a"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("hf://datasets/org/name@main/a.parquet", "hf://datasets/org/name@main/a.parquet"),
    ],
)
def test_no_password_and_no_signature(url: str, safe: str) -> None:
    assert is_url(url) and shown(url) == safe and shown(safe) == safe
    text = f"NAME={safe} 'and {safe}': gone; {safe}"
    assert without_secrets(f"NAME={url} 'and {url}': gone; {url}") == text == without_secrets(text)


def test_what_is_no_url_stays_as_it_is() -> None:
    assert not any(map(is_url, ("C://x", "a/b:c", "org/name:train", "x:y")))
    assert without_secrets("a: b://; c?d@e") == "a: b://; c?d@e"


def test_values_that_are_written_down() -> None:
    url, safe = "https://h/x?p", "https://h/x?…"
    assert all_without_secrets({"a": [url, 1, None], "b": {"c": (url,)}}) == {"a": [safe, 1, None], "b": {"c": [safe]}}


def test_what_follows_a_query_that_was_cut_stays() -> None:
    assert without_secrets("https://h/x?…: gone (https://h/x?…); go") == "https://h/x?…: gone (https://h/x?…); go"


def test_errors_and_warnings_hold_none() -> None:
    url = "https://u:p@h/x?p"
    error = BadInput(f"is {url}", where=url, remedy=url, note=url).replace(note=f"of {url}")
    safe = "https://h/x?…"
    assert str(error) == f"{safe}: is {safe}; {safe} (of {safe})" and error.note == f"of {safe}"
    with pytest.warns(NaitWarning, match=r"^see https://h/x\?…$"):
        warn(f"see {url}")
