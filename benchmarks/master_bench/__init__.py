"""Parts of the benchmark of the master: pretended servers, a job of many live trajectories, what is measured."""
