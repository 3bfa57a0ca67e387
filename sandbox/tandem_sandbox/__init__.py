"""Code execution for rewards (report, section 2.6.4): the package is reserved here; no reward of this release runs code."""
