"""Pure functions from an RLJob to the Kubernetes objects that run it."""
