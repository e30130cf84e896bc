"""Slow, obvious versions of what ddeval computes fast: loops a reader can check against the definition."""
