"""psycopg 2: libpq, simple queries only; server-side cursors, COPY, several statements in one query."""

import io
import time

import matrix
import psycopg2
from matrix import failed, since, wait

wait("before")
connection = psycopg2.connect(
    host=matrix.HOST, port=matrix.PORT, dbname=matrix.DATABASE, user=matrix.USER, sslmode=matrix.SSLMODE
)
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("prepare named as " + matrix.NAMED + "$1")
cursor.execute("execute named (1)")
wait("midstream")

for _ in range(3):
    cursor.execute("select simple_one()")
for number in range(5):
    cursor.execute("select extended_sum(%s)", (number,))
for number in range(10):
    cursor.execute("execute named (%s)", (number + 1,))
cursor.execute("insert into items (id, name) values (101, 'a'), (102, 'b'), (103, 'c')")
cursor.execute("update items set name = 'd' where id > %s", (100,))
cursor.execute("delete from items where id > %s", (102,))
cursor.execute(matrix.LONG)
cursor.execute(matrix.LARGE)
assert len(cursor.fetchall()) == 1000
cursor.execute("select multi_one(); select multi_two()")

# What Python's database interface does by itself: BEGIN before the first statement.
connection.autocommit = False
cursor.execute("insert into items (id, name) values (%s, 'kept')", (201,))
connection.commit()
cursor.execute("insert into items (id, name) values (%s, 'dropped')", (202,))
connection.rollback()
with connection.cursor("limited") as limited:
    limited.itersize = 20
    limited.execute("select id from items order by id limit 50")
    assert len(list(limited)) == 50
connection.commit()
connection.autocommit = True

cursor.copy_expert("copy items (id, name) from stdin", io.StringIO("301\tin\n302\tin\n303\tin\n"))
cursor.copy_expert("copy items to stdout", io.StringIO())

for statement in [
    "select divided(0)",
    "insert into items (id, name) values (1, 'again')",
    "selec 1",
]:
    try:
        cursor.execute(statement)
    except psycopg2.Error as error:
        failed(error.pgcode)

for statement in matrix.TIMED:
    begun_ns = time.monotonic_ns()
    cursor.execute(statement)
    since(begun_ns)

connection.close()
matrix.report()
