from loginetl_assets.logins.contract import ADOPTED_COLUMNS, COLUMN_NAMES, COLUMNS, FIELDS, Kind
from loginetl_assets_tests.support.fields import DOCUMENT, as_markdown


def test_the_document_of_the_fields_is_the_contract_s() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == as_markdown(), "run make docs"


def test_the_columns_that_a_table_must_have_come_first_and_later_ones_are_optional() -> None:
    assert COLUMN_NAMES[: len(ADOPTED_COLUMNS)] == ADOPTED_COLUMNS
    assert all(column.optional for column in COLUMNS[len(ADOPTED_COLUMNS) :])


def test_each_field_has_a_width_that_its_kind_or_its_declaration_sets() -> None:
    assert all((field.max_length is not None) == (field.kind is Kind.TEXT) for field in FIELDS)


def test_no_version_is_masked_since_a_token_is_made_from_a_text() -> None:
    assert not any(field.masked for field in FIELDS if field.kind is Kind.VERSION)
