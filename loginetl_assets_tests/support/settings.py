"""Writes the table of docs/settings.md from the declarations: python -m loginetl_assets_tests.support.settings."""

from pathlib import Path

from loginetl_assets.settings import Settings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def with_table(page: str, settings: type[Settings] = Settings) -> str:
    """Returns a Markdown page, its table of variables replaced by the one of the declarations."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for _, _, variable in settings.variables():
        default = f"`{variable.default}`" if variable.default else variable.otherwise
        default += " in local, else required" if variable.is_required else ""
        rows.append(f"| `{variable.name}` | {default} | {variable.meaning} |")
    before, _, rest = page.partition(rows[0])
    return before + "\n".join(rows) + rest[rest.index("\n\n") :]


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
