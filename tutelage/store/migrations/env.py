"""Runs the migrations on the connection that `store/db.py` hands over. Knows no URL and opens nothing itself."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
