"""What the scripts share.

A wing imports only wings before it: common; museum and records; networks; training; evaluation.
"""

__version__ = "1.0.0"  # Tests keep manifests, documents and CITATION.cff equal.
