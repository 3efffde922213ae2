"""What the errors of stores mean: whether to ask again, after how long, and what to say of them."""

from __future__ import annotations

from nait_fast.errors import first_line
from nait_fast.urls import without_secrets

_STATUS = ("status", "status_code")  # of an error of aiohttp, or of the answer in one of requests or httpx
_FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    TypeError,
    AttributeError,
    ImportError,
)
TRIES, ASKING_TRIES = 8, 3  # in a row without a byte; the waits between eight come to a minute
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds


def _answer_of(error: BaseException) -> int | None:
    """The status with which a web server, or a store behind one, refused; None where it did not, or nobody knows."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore's
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        for status in (response, *(getattr(of, name, None) for of in (cause, response) for name in _STATUS)):
            if isinstance(status, int):
                return status
        cause = cause.__cause__
    return None


def is_final(error: BaseException) -> bool:
    """Whether the same question would be answered so again: not where a connection failed, or a server was busy."""
    if (status := _answer_of(error)) is not None:
        return 400 <= status < 500 and status not in (408, 425, 429)
    kinds = {kind.__name__ for kind in type(error.__cause__ or error).__mro__}
    if "BotoCoreError" in kinds:  # no credentials, a wrong profile; those of the transport come and go
        return not kinds & {"HTTPClientError", "ConnectionError"}
    if kinds & {"InvalidURL", "OfflineModeIsEnabled"}:
        return True
    # fsspec says of a server that it could not reach that there is no such file, and why.
    unreached = isinstance(error.__cause__, OSError) or "ClientError" in kinds
    return isinstance(error, _FINAL) and not unreached


def as_os_error(error: Exception) -> OSError:
    """``error`` of a store as one of the system's, in one line without secrets."""
    status = _answer_of(error)
    if isinstance(error, FileExistsError) or status in (409, 412):  # what was to be made, and not written over
        return FileExistsError(17, "File exists")
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and status is None and is_final(error)):
        return FileNotFoundError(2, "No such file or directory")
    if status is not None and 400 <= status < 500:
        refused = ", which asks for other credentials" if status in (401, 403) else ""
        return PermissionError(13, f"the server answered {status}{refused}")
    return OSError(getattr(error, "errno", None) or 5, without_secrets(first_line(error.__cause__ or error)))


def wait_before(attempt: int) -> float:
    """Seconds before a connection is tried again."""
    return min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
