"""From a quantised model to an overlay program, and from a program to answers: spec, importers, compiler, program,
functional model, cycle model, driver.

May touch ``hal``, types and errors; imports numpy, and onnx or the TFLite schema where a model is read. Never the
daemon's: workers, helpers and the operator's side import it.
"""
