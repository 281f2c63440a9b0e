"""What every script shares: the command line, whole files, progress, being stopped, label names."""
