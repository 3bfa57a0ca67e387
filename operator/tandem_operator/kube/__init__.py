"""The thin edge to the Kubernetes API: credentials, raw JSON requests, a cache of children, a lease and events."""
