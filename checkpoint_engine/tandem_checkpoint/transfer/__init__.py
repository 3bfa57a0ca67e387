"""Weights on their way from one pod to another: who offers them, what to read from whom, and the reading."""
