"""Policies of every supported family."""
