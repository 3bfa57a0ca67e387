"""A run as a Chrome trace."""
