"""The Open Inference Protocol V2: paths (no numpy), requests and responses (numpy)."""
