"""The error that a user can mend: commands print it as one line and exit with code 2, without a traceback."""


class InputError(ValueError):
    """What the user gave cannot be used; the message names the file or key, the reason and the fix."""


class MissingWeightsError(InputError):
    """Nobody named a weight file, and the published one is nowhere on this machine."""
