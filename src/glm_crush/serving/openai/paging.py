"""One page of a table's rows, newest or oldest first.

Above: the stores. Below: SQLAlchemy. Tables have `id` and `created_at`, which together order their rows.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, or_, select

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.listing import Page, PageQuery, may_be_id

__all__ = ["read_page"]


def read_page(connection: Connection, table: Table, query: PageQuery, *where: ColumnElement[bool]) -> Page:
    """The rows that a query asks for.

    Raises:
        InvalidParameterError: `after` is no row of these.
    """
    statement = select(table).where(*where)
    newest_first = query.order == "desc"
    if query.after is not None:
        last = _row(connection, table, query.after, *where)
        time, number = table.c.created_at, table.c.id
        beyond = (
            (time < last.created_at, number < last.id) if newest_first else (time > last.created_at, number > last.id)
        )
        statement = statement.where(or_(beyond[0], and_(time == last.created_at, beyond[1])))
    columns = (table.c.created_at, table.c.id)
    statement = statement.order_by(*(column.desc() if newest_first else column.asc() for column in columns))
    rows = connection.execute(statement.limit(query.limit + 1)).all()
    return Page(rows[: query.limit], has_more=len(rows) > query.limit)


def _row(connection: Connection, table: Table, row_id: str, *where: ColumnElement[bool]) -> Row[Any]:
    row = None
    if may_be_id(row_id):
        row = connection.execute(select(table).where(table.c.id == row_id, *where)).one_or_none()
    if row is None:
        raise InvalidParameterError(f"after is {row_id!r:.80}, which is not in this list", parameter="after")
    return row
