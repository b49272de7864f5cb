"""What the database's URL may say, and what of it is shown."""

import pytest
from sqlalchemy import text

from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.resources.database import LoginDatabase
from loginetl_assets.settings import Settings

PASSWORD = "correct-horse"  # noqa: S105 - to be searched for


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/logins",
        f"postgresql://user@127.0.0.1:1/logins?password={PASSWORD}",
        f"postgresql://user:{PASSWORD}@/logins?host=127.0.0.1&port=1&sslpassword={PASSWORD}",
    ],
)
def test_no_password_is_shown_wherever_it_stands(url: str) -> None:
    database = LoginDatabase(url)
    with pytest.raises(TransientError) as raised, database.transaction():
        pass
    assert "127.0.0.1" in str(raised.value)
    assert PASSWORD not in str(raised.value)
    assert database.url.password == PASSWORD


@pytest.mark.parametrize("password", [f"p@{PASSWORD}", f"p@s/{PASSWORD}"])
def test_a_password_whose_end_would_be_taken_for_the_address_is_refused(password: str) -> None:
    with pytest.raises(OperatorError, match="%40") as raised:
        LoginDatabase(f"postgresql://user:{password}@127.0.0.1:1/logins")
    assert PASSWORD not in str(raised.value)


def test_the_options_of_the_url_reach_the_server_beside_our_own(settings: Settings) -> None:
    assert settings.database_url is not None
    url = LoginDatabase(settings.database_url).url.update_query_dict({"options": "-csearch_path=sales"})
    with LoginDatabase(url.render_as_string(hide_password=False)).transaction() as connection:
        assert connection.execute(text("SHOW search_path")).scalar_one() == "sales"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "30s"
