"""The local control socket and the snapshot behind ``overlaid status``. May import types and errors."""
