"""From picture files to records."""
