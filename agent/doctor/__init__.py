"""What is wrong with this node, why, and the command that mends it: ``overlaid doctor``.

A module for each area. Small functions look (files, sockets, child processes) and give facts; pure ones judge the facts
and give findings. ``examination`` puts them together. Nothing here changes the node, takes the daemon's place at the
broker or needs the daemon; may import every room but cli.
"""
