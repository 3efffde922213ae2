"""The one way from rows to token ids: each row is parsed, rendered and tokenised, or told with the reason."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any, TypeVar

from nait_fast.data.formats import RowError, Sample
from nait_fast.data.tokenize import Encoded, Encoder, Refused

CHUNK_ROWS = 1024
_AHEAD = 3  # chunks whose tokens are awaited while the next one is rendered

Row = TypeVar("Row")


def parsed(
    rows: Iterable[tuple[int, Row]], parse: Callable[[Row, int], Sample], bad: Callable[[int, Row, RowError], Any]
) -> Iterator[Sample]:
    """The samples of numbered ``rows``; ``bad`` is told of each that ``parse`` refuses, and may raise."""
    for number, row in rows:
        try:
            sample = parse(row, number)
        except RowError as error:
            bad(number, row, error)
        else:
            yield sample


def encode(
    encoder: Encoder, samples: Iterable[Sample], refuse: Callable[[Refused], Any], tokenizer: Executor | None = None
) -> Iterator[Encoded]:
    """``samples`` as tokens, in order; ``refuse`` is told of each that cannot be encoded, and may raise.

    ``tokenizer``: threads that tokenise while this one renders what comes next.
    """
    remaining, waiting = iter(samples), deque[Future[list[Encoded | Refused]]]()

    def usable(results: list[Encoded | Refused]) -> Iterator[Encoded]:
        for result in results:
            if isinstance(result, Encoded):
                yield result
            else:
                refuse(result)

    while chunk := list(islice(remaining, CHUNK_ROWS)):
        if tokenizer is None:
            yield from usable(encoder.encode(chunk))
            continue
        waiting.append(tokenizer.submit(encoder.tokenise, encoder.prepare(chunk)))
        if len(waiting) > _AHEAD:
            yield from usable(waiting.popleft().result())
    while waiting:
        yield from usable(waiting.popleft().result())
