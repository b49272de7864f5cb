from pathlib import Path

import pytest

from loginetl_assets.logins.contract import ADOPTED_COLUMNS, COLUMN_NAMES, COLUMNS, FIELDS, Kind
from loginetl_assets.logins.message import MAX_DEPTH
from loginetl_assets.logins.rejection import Reason
from loginetl_assets_tests.support.documents import DOCUMENTS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_the_documents_of_fields_and_reasons_are_what_the_code_declares(document: Path) -> None:
    assert document.read_text(encoding="utf-8") == DOCUMENTS[document](), "run make docs"


def test_each_reason_has_a_sentence_of_its_own() -> None:
    assert all(reason.meaning.endswith(".") for reason in Reason)
    assert len({reason.meaning for reason in Reason}) == len(Reason)
    assert f" {MAX_DEPTH} " in Reason.TOO_DEEP.meaning


def test_the_columns_that_a_table_must_have_come_first_and_later_ones_are_optional() -> None:
    assert COLUMN_NAMES[: len(ADOPTED_COLUMNS)] == ADOPTED_COLUMNS
    assert all(column.optional for column in COLUMNS[len(ADOPTED_COLUMNS) :])


def test_each_field_has_a_width_that_its_kind_or_its_declaration_sets() -> None:
    assert all((field.max_length is not None) == (field.kind is Kind.TEXT) for field in FIELDS)


def test_no_version_is_masked_since_a_token_is_made_from_a_text() -> None:
    assert not any(field.masked for field in FIELDS if field.kind is Kind.VERSION)
