"""Programs that tests run beside the real ones."""
