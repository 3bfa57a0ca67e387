"""One machine as a node: the planner's pods as processes."""
