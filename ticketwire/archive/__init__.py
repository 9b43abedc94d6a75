"""PostgreSQL: the only package that speaks SQL. Messages, the audit chain, migrations."""
