"""What the operator's TUF repository lets this node install.

``parent`` (what the daemon uses) starts ``helper``, a process that lives for one question, because python-tuf is slow
to import and large; ``client`` alone imports it. ``thread`` asks without a process, for many simulated nodes in one.
"""
