"""Tests of what the benchmarks work out from what they have seen."""
