"""Process control: children in groups of their own, control channels, the zygote, and nothing left behind."""
