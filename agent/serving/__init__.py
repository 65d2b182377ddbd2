"""Open Inference Protocol V2: front door, codec, worker processes and the pool that supervises them.

The front door and the pool run in the daemon and never import numpy; the worker does. The data path (client → worker)
does not cross the daemon. May import hal, devices, types and errors.
"""
