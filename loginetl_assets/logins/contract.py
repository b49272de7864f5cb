"""The contract of a login: every field of a message's body, declared once.

Derived from it are: how bodies are read and checked, the masked frame, the columns of the login table and of the
analysts' views, the column schemas and lineage of the assets, and docs/fields.md. docs/extending.md adds a field.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """How the text of a field is read."""

    TEXT = auto()  # as sent; where it is masked, one spelling per value (see `canonical`)
    IP = auto()  # an IPv4 or IPv6 address
    VERSION = auto()  # one to three numbers, stored as one integer (see `versions`)


@dataclass(frozen=True)
class Column:
    """A column of the login table."""

    name: str
    sql_type: str
    description: str
    source: str  # what it is made from: the name of a field, or `sent_at`
    optional: bool = False  # null where the field was not sent; all other columns have a value in every row of ours
    masked: bool = False  # holds tokens

    @property
    def base_type(self) -> str:
        """The type without its width, as Postgres's catalog spells it."""
        return self.sql_type.split("(")[0].replace("varchar", "character varying")


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message's body: a JSON string."""

    name: str  # nested objects are joined with `_`: {"device": {"id": …}} is device_id
    description: str
    kind: Kind = Kind.TEXT
    max_length: int | None = None  # characters; the width of its column, unless it is masked
    optional: bool = False  # may be missing, null or empty, and is null in the table then
    masked: bool = False  # personal data: the table has a token, the vault the value

    @property
    def message_description(self) -> str:
        """What a reader of the queue's messages has to know of the field."""
        masked = " Personal data: masked before it is loaded." if self.masked else ""
        return f"{self.description}{' May be null or missing.' if self.optional else ''}{masked}"

    @property
    def column(self) -> Column:
        """The column that the field is loaded into."""
        name, sql_type, description = self.name, f"varchar({self.max_length})", self.description
        if self.masked:
            name, sql_type = f"masked_{name}", f"varchar({TOKEN_WIDTH})"
            description = f"Token of {self.name} (key id, dot, base64url HMAC-SHA256); equal values have equal tokens."
        elif self.kind is Kind.VERSION:
            sql_type = "integer"
            description = "`major*1_000_000 + minor*1_000 + patch` (or the major version, by setting)."
        if self.optional:
            description += " Null where it was not sent."
        return Column(name, sql_type, description, self.name, self.optional, self.masked)


TOKEN_WIDTH = 256  # a token has 54 characters; the column has been wider in the tables of its users

# In the order in which they are read: of several missing or mistyped fields of a body, the first is its reason.
FIELDS = (
    Field(name="user_id", description="Who logged in.", max_length=128),
    Field(name="app_version", description="The app's version, such as 2.3.0.", kind=Kind.VERSION),
    Field(name="device_type", description="Such as ios, android.", max_length=32),
    Field(name="ip", description="The IP address.", kind=Kind.IP, masked=True),
    Field(name="locale", description="Such as RU.", max_length=32, optional=True),
    Field(name="device_id", description="The device.", max_length=256, masked=True),
)
CREATE_DATE = Column("create_date", "date", "UTC date on which SQS took the message.", source="sent_at")

# What a table must have to be adopted, in the order that its users know. The columns of later fields are optional,
# follow these, and are added by a migration.
ADOPTED_COLUMNS = (
    "user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date",
)  # fmt: skip

FIELD_NAMES = tuple(field.name for field in FIELDS)
MAX_LENGTHS = {field.name: field.max_length for field in FIELDS if field.max_length is not None}
MASKED_FIELDS = tuple(field.name for field in FIELDS if field.masked)
TOKEN_COLUMNS = {field.name: field.column.name for field in FIELDS if field.masked}  # by the field's name

_BY_NAME = {column.name: column for column in (*(field.column for field in FIELDS), CREATE_DATE)}
COLUMNS = tuple(_BY_NAME[name] for name in dict.fromkeys((*ADOPTED_COLUMNS, *_BY_NAME)))
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
