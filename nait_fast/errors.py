"""The one exception a user should ever see; the command line turns it into one line and exit status 2."""


class NaitError(Exception):
    """Bad input or an unusable environment.

    The message is one line that names what is wrong, where (file, row or flag) and what to do about it.
    """


def first_line(error: BaseException) -> str:
    """Kind and first line of somebody else's error, for the one line of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
