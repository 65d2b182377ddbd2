"""Where models run: ``profile`` measures candidates through interfaces it is given, ``planning`` decides for all models
of a node together, ``adapting`` turns what the node sees each second into moves. The last two are pure.

May import hal, types and errors. Never numpy: the daemon imports this.
"""
