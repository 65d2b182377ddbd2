"""Placement policies compared on modelled boards: traces, policies, a clairvoyant oracle, figures."""
