"""Log-probability parity and equal bytes: every family, in every split of its trainer, with every split of a server."""
