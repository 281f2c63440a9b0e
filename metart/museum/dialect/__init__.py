"""Runs BigQuery's SQL on DuckDB where the value is known to be BigQuery's, and refuses the rest.

What runs, and how, is in tables: rules.py (casts, operators, conditions), functions.py, dates.py, aggregates.py and
patterns.py. The other modules apply them to a query: literals.py, values.py, names.py, expressions.py, windows.py and
queries.py, which has translate().
"""
