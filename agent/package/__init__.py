"""What is delivered: a manifest and content-addressed blocks.

``manifest`` (the format), ``blocks`` (cutting and joining files), ``tuf`` (what the operator's repository lets a node
install), ``verify`` (pure: the only maker of a VerifiedPackage), ``store`` (the node's disk). May import trust, types
and errors.
"""
