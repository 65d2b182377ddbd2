"""What the node sees each second, and the moves that follow from it. Pure."""
