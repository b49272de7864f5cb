"""Alembic's entry: runs the migrations on the connection that `migrate` hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema="loginetl",
    transaction_per_migration=True,  # so that one of them can step out of its transaction (CREATE INDEX CONCURRENTLY)
)
with context.begin_transaction():
    context.run_migrations()
