"""The GPU as a device: which routes to it work here (ONNX Runtime's providers, LiteRT, OpenCL), and sessions on them.

The modules are light; a runtime is imported when a model is opened, or in the process that proves a route. ``findings``
says from what the system shows why a GPU is not usable.
"""
