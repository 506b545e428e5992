"""The one place that knows what is broken in somebody else's release, and how to call it safely."""
