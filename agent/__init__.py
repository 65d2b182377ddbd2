"""The node's software and the operator's side of the same wire (distribution and command: ``overlaid``)."""

__version__ = "0.1.0"
