"""Object storage: a port, and obstore behind it."""
