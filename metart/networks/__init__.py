"""What is computed: networks, the pictures they see, their weights."""
