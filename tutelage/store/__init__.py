"""The store: people's judgement as append-only facts in one SQLite file or a PostgreSQL database. Knows no torch."""
