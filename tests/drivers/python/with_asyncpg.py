"""asyncpg: its own implementation of the protocol, binary; prepares in a round trip of its own; cursors are portals."""

import asyncio
import io
import ssl
import time

import asyncpg
import matrix
from matrix import failed, since, wait

NAMED = matrix.NAMED + "$1"


def encryption():
    if matrix.SSLMODE == "disable":
        return False
    # As sslmode=require: encrypted, and nobody is asked who the server is.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def main():
    wait("before")
    connection = await asyncpg.connect(
        host=matrix.HOST, port=int(matrix.PORT), database=matrix.DATABASE, user=matrix.USER, ssl=encryption()
    )
    named = await connection.prepare(NAMED)
    await named.fetch(1)
    wait("midstream")

    for _ in range(3):
        await connection.execute("select simple_one()")
    for number in range(5):
        await connection.fetch("select extended_sum($1::int)", number)
    for number in range(10):
        await named.fetch(number + 1)
    await connection.execute(
        "insert into items (id, name) values ($1, 'a'), ($2, 'b'), ($3, 'c')", 101, 102, 103
    )
    await connection.execute("update items set name = 'd' where id > $1", 100)
    await connection.execute("delete from items where id > $1", 102)
    await connection.fetch(matrix.LONG)
    await connection.fetch("select long_parameter($1)", "x" * 65536)
    assert len(await connection.fetch(matrix.LARGE)) == 1000
    await connection.execute("select multi_one(); select multi_two()")

    async with connection.transaction():
        await connection.execute("insert into items (id, name) values ($1, 'kept')", 201)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("insert into items (id, name) values ($1, 'dropped')", 202)
    await transaction.rollback()

    async with connection.transaction():
        rows = connection.cursor("select id from items order by id limit 50", prefetch=20)
        assert len([row async for row in rows]) == 50

    rows = [(number, "in") for number in (301, 302, 303)]
    await connection.copy_records_to_table("items", records=rows, columns=["id", "name"])
    await connection.copy_from_query("select * from items", output=io.BytesIO())
    # One Parse, then Bind and Execute for each, one Sync.
    await connection.executemany(
        "insert into items (id, name) values ($1, $2)", [(400 + number, "many") for number in range(20)]
    )
    # The third of them fails, the rest is skipped and the first two are undone.
    try:
        await connection.executemany("select piped_division($1::int)", [(1,), (1,), (0,), (1,)])
    except asyncpg.PostgresError as error:
        failed(error.sqlstate)

    for statement, parameters in [
        ("select divided($1::int)", [0]),
        ("insert into items (id, name) values ($1, 'again')", [1]),
        ("selec 1", []),
    ]:
        try:
            await connection.fetch(statement, *parameters)
        except asyncpg.PostgresError as error:
            failed(error.sqlstate)

    # Between its Parse and its Bind there is no Sync: one request, both of them inside the clock.
    for statement in matrix.TIMED:
        begun_ns = time.monotonic_ns()
        await connection.fetch(statement)
        since(begun_ns)

    await connection.close()
    matrix.report()


asyncio.run(main())
