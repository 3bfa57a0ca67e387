"""Writes down what a running job does, from outside."""
