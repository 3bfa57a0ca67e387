"""From what is observed of a job to what is done about it: pure decisions, and the funnel that carries them out."""
