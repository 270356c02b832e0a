"""What Alembic runs: applies the revisions on the connection that `milliseek.db.schema` hands over.

Offline (`as_sql=True`) it prints the statements for the dialect named in the attribute `dialect_name`.
"""

from alembic import context
from sqlalchemy.sql.schema import SchemaItem

from milliseek.db.models import PREFIX, Base
from milliseek.db.schema import VERSION_TABLE


def ours(item: SchemaItem, name: str | None, kind: str, reflected: bool, other: SchemaItem | None) -> bool:  # noqa: ARG001
    """Whether Alembic may look at a table: Optuna's live in the same database and are not ours to touch."""
    return kind != "table" or (name is not None and name.startswith(PREFIX) and name != VERSION_TABLE)


attributes = context.config.attributes
context.configure(
    connection=attributes.get("connection"),
    dialect_name=attributes.get("dialect_name"),
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_object=ours,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
