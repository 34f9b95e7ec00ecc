"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Input that cannot be used: a file, an option, a shape.

    The message is one or two sentences: what was wrong, what was expected, what to do. The command line prints it
    without a traceback; every other exception is a fault of the program and keeps its traceback.
    """
