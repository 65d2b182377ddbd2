"""Makes a machine a node: its configuration, its key, its certificate (``overlaid init``).

Used by the CLI alone; may import config, link, trust, types, errors and validation.
"""
