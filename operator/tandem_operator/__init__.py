"""RLJob -> pods, claims, services, configuration: a pure planner; the edges to a cluster come with the operator."""
