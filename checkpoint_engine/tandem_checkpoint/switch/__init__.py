"""The phase switch: what a member does when the master's word changes."""
