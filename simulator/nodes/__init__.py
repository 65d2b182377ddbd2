"""Many nodes in one process, on one broker: the real daemon for each, on simulated boards, with workers that are no
processes."""
