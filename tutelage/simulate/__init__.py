"""Simulated people: a documented taste, and labellers who judge by it with a known error."""
