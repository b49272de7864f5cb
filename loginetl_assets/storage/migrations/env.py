"""Alembic's entry: configures it for schema `loginetl` on the connection that `alembic_config` was given."""

from typing import Any

from alembic import context

from loginetl_assets.storage.tables import metadata


def _is_ours(name: str | None, kind: str, parents: Any) -> bool:
    return kind != "schema" or name == metadata.schema


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_schemas=True,
    include_name=_is_ours,
    compare_server_default=True,
    version_table_schema=metadata.schema,
    transaction_per_migration=True,  # so that one of them can step out of its transaction (CREATE INDEX CONCURRENTLY)
)
with context.begin_transaction():
    context.run_migrations()
