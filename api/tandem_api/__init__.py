"""The shared vocabulary of Tandem as types: no I/O, no torch."""
