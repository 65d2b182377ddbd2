"""Layers of a graph → overlay segments: built, placed, tiled, ordered and encoded."""
