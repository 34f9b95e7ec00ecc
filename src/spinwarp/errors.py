"""The exception for mistakes that a user can correct."""


class InputError(ValueError):
    """Input that cannot be used: a file, an option, a shape.

    The message says in one or two sentences what was wrong, what was expected and what to do. The command line prints
    it without a traceback. Any other exception is a bug and keeps its traceback.
    """
