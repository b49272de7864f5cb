"""Indexes on `user_logins`, built beside whoever uses the table: what checks and erasure look up costs what it finds.

Columns, rows and types of a table that was there before stay as they are. A build that was ended (killed, or kept
waiting by an open transaction) leaves an index that no query uses; it is dropped and built anew.
"""

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, columns in (
            ("user_logins_by_user", "user_id"),
            ("user_logins_by_ip", "masked_ip, user_id"),
            ("user_logins_by_device", "masked_device_id, user_id"),
        ):
            unfinished = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
            if op.get_bind().scalar(unfinished, {"name": name}):  # which IF NOT EXISTS would take for the index
                op.execute(f"DROP INDEX CONCURRENTLY {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON user_logins ({columns})")


def downgrade() -> None:
    for name in ("user_logins_by_user", "user_logins_by_ip", "user_logins_by_device"):
        op.execute(f"DROP INDEX IF EXISTS {name}")
