"""The sample data set: drawn stand-ins for photographs."""
