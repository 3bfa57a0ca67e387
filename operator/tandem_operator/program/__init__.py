"""The operator as a program: settings, logs, metrics, probes, kopf's frame and the order of start and end."""
