"""Composition root: builds the parts from Config, runs them, shuts down in order."""
