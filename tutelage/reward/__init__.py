"""How to score answers: reward models, ensembles of them, and rules. Knows nothing of how they were learned."""
