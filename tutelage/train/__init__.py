"""The loops that learn, and the machines under them.

Knows no engine, no reward and no evaluation: they are handed in.
"""
