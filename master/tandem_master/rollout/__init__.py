"""From unfinished trajectories to finished ones: requests, servers, segments."""
