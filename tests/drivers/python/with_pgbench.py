"""pgbench: libpq in asynchronous mode, statements prepared under names, pipelines.

Its own clock is of whole transactions; `tests/tests/postgres.rs` holds durations against it.
"""

import os
import subprocess
import tempfile

import matrix
from matrix import failed, wait

WORKLOAD = f"""
\\set turn :turn + 1
\\if :turn = 2
\\shell cat gate
\\endif
\\set id :turn + 1000
select simple_one();
select extended_sum(:turn);
insert into items (id, name) values (:id, 'a'), (:id + 100, 'b');
update items set name = 'd' where id = :id;
delete from items where id > 1100;
begin;
insert into items (id, name) values (:id + 200, 'kept');
commit;
begin;
insert into items (id, name) values (:id + 300, 'dropped');
rollback;
\\startpipeline
select piped_number(:turn);
select piped_one();
select piped_number(:turn);
\\endpipeline
"""
# One client stops at its first error, so each has a run of its own.
FAILING = [
    ("simple", "select divided(0);\n"),
    ("extended", "insert into items (id, name) values (1, 'again');\n"),
    ("simple", "selec 1;\n"),
    ("extended", "\\startpipeline\nselect before_error(1);\nselect piped_division(0);\n"
                 "select after_error(2);\n\\endpipeline\n"),
]
OTHER = [("simple", f"{matrix.LONG};\n{matrix.LARGE};\n"), ("extended", f"{matrix.LARGE};\n")]


def pgbench(folder, mode, transactions, script):
    path = os.path.join(folder, "script.sql")
    with open(path, "w") as file:
        file.write(script)
    command = [matrix.PROGRAM, "-n", "-M", mode, "-c", "1", "-t", str(transactions), "-D", "turn=0", "-f", path]
    command += ["-h", matrix.HOST, "-p", matrix.PORT, "-U", matrix.USER, matrix.DATABASE]
    environment = dict(os.environ, PGSSLMODE=matrix.SSLMODE, PGOPTIONS="")
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


with tempfile.TemporaryDirectory(prefix="steth-pgbench-") as folder:
    gate = os.path.join(folder, "gate")
    os.mkfifo(gate)
    wait("before")
    bench = pgbench(folder, "prepared", 30, WORKLOAD)
    # Opens as soon as pgbench reads: after its first transaction, between two statements.
    with open(gate, "w"):
        wait("midstream")
    said, _ = bench.communicate()
    assert bench.returncode == 0, said
    for mode, script in OTHER:
        bench = pgbench(folder, mode, 1, script)
        said, _ = bench.communicate()
        assert bench.returncode == 0, said
    for mode, script in FAILING:
        bench = pgbench(folder, mode, 1, script)
        said, _ = bench.communicate()
        assert bench.returncode == 2, said
        text = {"division by zero": "22012", "duplicate key": "23505", "syntax error": "42601"}
        for message, sqlstate in text.items():
            if message in said:
                failed(sqlstate)
matrix.report()
