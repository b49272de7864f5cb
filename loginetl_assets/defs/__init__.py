"""Dagster's folder of further definitions: what `dg scaffold defs` writes here is merged into the code location."""
