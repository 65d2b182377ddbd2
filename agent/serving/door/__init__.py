"""What the daemon answers itself: one address for every model. Imports no numpy."""
