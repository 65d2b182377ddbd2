"""The daemon's side of its worker processes: start, control channel, restart. Imports no numpy."""
