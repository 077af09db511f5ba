"""psycopg 3: libpq with the extended protocol, named statements, pipeline mode, server-side cursors, COPY."""

import time

import matrix
import psycopg
from matrix import failed, since, wait

wait("before")
connection = psycopg.connect(
    host=matrix.HOST,
    port=matrix.PORT,
    dbname=matrix.DATABASE,
    user=matrix.USER,
    sslmode=matrix.SSLMODE,
    autocommit=True,
)
NAMED = matrix.NAMED + "%s"
connection.execute(NAMED, (1,), prepare=True)
wait("midstream")

for _ in range(3):
    connection.execute("select simple_one()")
# From the sixth on it is prepared under a name: psycopg's `prepare_threshold`.
for number in range(8):
    connection.execute("select extended_sum(%s::int)", (number,))
for number in range(10):
    connection.execute(NAMED, (number + 1,), prepare=True)
for number in range(5):
    connection.execute("select unnamed_number(%s::int)", (number,), prepare=False)
connection.execute("insert into items (id, name) values (%s, 'a'), (%s, 'b'), (%s, 'c')", (101, 102, 103))
connection.execute("update items set name = 'd' where id > %s", (100,))
connection.execute("delete from items where id > %s", (102,))
connection.execute(matrix.LONG)
connection.execute("select long_parameter(%s)", ("x" * 65536,))
assert len(connection.execute(matrix.LARGE).fetchall()) == 1000
connection.execute("select multi_one(); select multi_two()")

with connection.transaction():
    connection.execute("insert into items (id, name) values (%s, 'kept')", (201,))
with connection.transaction(force_rollback=True):
    connection.execute("insert into items (id, name) values (%s, 'dropped')", (202,))

with connection.transaction(), connection.cursor("limited") as limited:
    limited.itersize = 20
    limited.execute("select id from items order by id limit 50")
    assert len(list(limited)) == 50

with connection.cursor() as cursor:
    with cursor.copy("copy items (id, name) from stdin") as copy:
        for number in (301, 302, 303):
            copy.write_row((number, "in"))
    with cursor.copy("copy items to stdout") as copy:
        assert len(list(copy.rows())) > 50
    cursor.executemany("insert into items (id, name) values (%s, %s)", [(400 + n, "many") for n in range(20)])

# Twelve statements sent before the first answer is read.
with connection.pipeline():
    for number in range(12):
        connection.execute("select piped_number(%s::int)", (number,))
# The server skips what follows the error, up to the Sync.
try:
    with connection.pipeline():
        connection.execute("select before_error(%s::int)", (1,))
        connection.execute("select piped_division(%s::int)", (0,))
        connection.execute("select after_error(%s::int)", (1,))
except psycopg.Error as error:
    failed(error.sqlstate)
connection.execute("select piped_number(%s::int)", (12,))

for statement, parameters in [
    ("select divided(%s::int)", (0,)),
    ("insert into items (id, name) values (%s, 'again')", (1,)),
    ("selec 1", None),
]:
    try:
        connection.execute(statement, parameters)
    except psycopg.Error as error:
        failed(error.sqlstate)

for statement in matrix.TIMED:
    begun_ns = time.monotonic_ns()
    connection.execute(statement)
    since(begun_ns)

connection.close()
matrix.report()
