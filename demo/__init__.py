"""`./dev demo`: the main job, end to end, on this machine's own hardware."""
