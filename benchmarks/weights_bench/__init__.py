"""What `benchmarks/weights.py` measures, part by part."""
