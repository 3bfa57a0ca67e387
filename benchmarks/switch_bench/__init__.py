"""What benchmarks/switch.py is made of: servers started in two ways, copies, whole jobs, trends over many switches."""
