"""The museum's data and the way to it."""
