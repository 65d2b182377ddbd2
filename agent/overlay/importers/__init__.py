"""Quantised models of the source's own format → ``graph``: QDQ and QLinear ONNX, INT8 TFLite.

``import_onnx`` and ``import_tflite`` share ``building`` (which bytes a tensor is) and ``layers`` (what a layer is made
of); ``cut`` makes models of their own of what stays on the CPU. Imports onnx, or the TFLite schema of LiteRT.
"""
