"""Weights between pods, over real sockets of the loopback network."""
