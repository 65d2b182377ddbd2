"""The daemon's log: what each line is about, where lines go (the journal, or stderr as text), and reading them again.

Code attaches fields in two ways: ``log.info(..., extra={"model": name, "device": device})`` for one line, and
``with about(model=name, deployment=number):`` for all that a task does.
"""
