"""Indexes on `user_logins`, built beside whoever uses the table: what checks and erasure look up costs what it finds.

Columns, rows and types of a table that was there before stay as they are.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, columns in (
            ("user_logins_by_user", "user_id"),
            ("user_logins_by_ip", "masked_ip, user_id"),
            ("user_logins_by_device", "masked_device_id, user_id"),
        ):
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON user_logins ({columns})")


def downgrade() -> None:
    for name in ("user_logins_by_user", "user_logins_by_ip", "user_logins_by_device"):
        op.execute(f"DROP INDEX IF EXISTS {name}")
