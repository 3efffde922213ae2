"""The one exception a user should ever see; the command line turns it into one line and exit status 2."""


class NaitError(Exception):
    """Bad input or an unusable environment.

    The message is one line that names what is wrong, where (file, row or flag) and what to do about it.
    """
