"""What is delivered: a signed manifest and content-addressed blocks.

``manifest`` (the format), ``blocks`` (cutting and joining files), ``verify`` (pure: the only maker of a
VerifiedPackage), ``store`` (the node's disk). May import trust, types and errors.
"""
