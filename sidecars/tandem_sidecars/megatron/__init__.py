"""The trainer program: Megatron-Core behind one device seam."""
