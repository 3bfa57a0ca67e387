"""Ways to hurt a running job."""
