"""Held-out evaluation: the policy is measured on problems that it is never trained on."""
