"""From a trained model to a model folder for ``pack``: checked, simplified, quantised, measured (docs/prepare.md).

Imports onnx, onnxruntime and the TFLite schema of LiteRT: for the operator's side only.
"""
