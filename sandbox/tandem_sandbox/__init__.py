"""Code execution for rewards (report, section 2.6.4): reserved; no reward of this release runs code."""
