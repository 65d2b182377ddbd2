"""The node's software and the operator's side of the same wire (distribution and command: ``overlaid``)."""
