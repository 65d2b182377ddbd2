"""Where all models of a node run together, why, and what would change that. Pure."""
