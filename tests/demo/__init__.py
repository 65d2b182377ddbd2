"""``make demo`` (``python -m tests.demo``): the whole product on this machine, without a board.

One node of this machine's own hardware, then three simulated boards beside each other. Every step is an ``overlaid``
command that a user could type.
"""
