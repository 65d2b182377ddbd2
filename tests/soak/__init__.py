"""Load on a real daemon, mixed with faults and changes, and a look at what it leaves behind."""
