"""What benchmarks/operator.py is made of: a control plane without nodes of its own, two operators, and counters."""
