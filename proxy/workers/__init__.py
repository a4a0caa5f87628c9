"""Several worker processes on one port, and the owner of what they share."""
