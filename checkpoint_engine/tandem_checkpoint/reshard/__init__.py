"""Weights from any layout into any other: which bytes go from where to where, worked out before a byte moves."""
