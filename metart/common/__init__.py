"""What every script shares: streams, command line, whole files, processor cores, progress, being stopped, labels."""
