"""Which variant runs where: profile (measures through an interface it is given) and plan (pure).

May import hal, types and errors.
"""
