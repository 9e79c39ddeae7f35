"""The one exception a user is meant to read."""


class UserError(Exception):
    """What went wrong, where, both values, and the remedy; the command line prints it without a traceback, exit code 2."""
