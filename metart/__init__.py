"""What the scripts share.

A wing imports only wings before it: common; museum and records; networks; training; evaluation.
"""
