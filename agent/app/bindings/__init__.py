"""MQTT inference: messages on bound topics are run through models, answers published (docs/mqtt-inference.md).

``runner`` (which bindings run, their connection to the broker), ``lane`` (one binding), ``payloads`` (MQTT payload ↔
inference request, pure), ``rate`` (pure), ``client`` (HTTP to a model's worker).
"""
