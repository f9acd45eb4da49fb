"""What all scripts share: a text in batches (data) and a device to compute on (device)."""


class InputError(SystemExit):
    """What the user can mend. Uncaught, it prints its message and the exit status is 1."""
