"""The operator's side of the wire: keys, packing, the package repository, deployments, and the server of blocks.

May import package, link, trust, devices, placement, types and errors; never what runs on the node.
"""
