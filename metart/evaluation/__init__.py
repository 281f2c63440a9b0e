"""What the answers of a network are worth."""
