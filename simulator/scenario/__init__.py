"""Scenarios: a board, models, the operator's caps and faults over time, run in event time or in real time."""
