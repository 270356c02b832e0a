"""The database: typed models, migrations, queries, and the store of large artefacts.

Open it with `milliseek.db.engine.Database`; the query modules take a SQLAlchemy `Session` and return plain
values or the classes of `milliseek.db.models`. The room knows no other room.
"""
