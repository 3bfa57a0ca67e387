"""The edge to the Kubernetes API, against a fake at the protocol seam and against a real API server."""
