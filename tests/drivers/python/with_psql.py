"""psql: libpq in synchronous mode, simple queries; one session whose statements come from its standard input."""

import subprocess

import matrix
from matrix import failed, wait

command = [matrix.PROGRAM, "-X", "-q", "-A", "-t", "-h", matrix.HOST, "-p", matrix.PORT, "-U", matrix.USER]
command += ["-v", "VERBOSITY=sqlstate", f"dbname={matrix.DATABASE} sslmode={matrix.SSLMODE}"]

BEFORE = f"""
prepare named as {matrix.NAMED}$1;
execute named (1);
"""
WORKLOAD = f"""
{"select simple_one();" * 3}
{"".join(f"execute named ({number + 1});" for number in range(10))}
insert into items (id, name) values (101, 'a'), (102, 'b'), (103, 'c');
update items set name = 'd' where id > 100;
delete from items where id > 102;
{matrix.LONG};
{matrix.LARGE};
select multi_one()\\; select multi_two();
begin;
insert into items (id, name) values (201, 'kept');
commit;
begin;
insert into items (id, name) values (202, 'dropped');
rollback;
\\set FETCH_COUNT 20
select id from items order by id limit 50;
\\unset FETCH_COUNT
copy items (id, name) from stdin;
301	in
302	in
\\.
\\copy items to '/dev/null'
select divided(0);
insert into items (id, name) values (1, 'again');
selec 1;
\\timing on
{";".join(matrix.TIMED)};
\\timing off
"""

wait("before")
psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
psql.stdin.write(BEFORE + "\\echo prepared\n")
psql.stdin.flush()
while psql.stdout.readline() not in ("prepared\n", ""):
    pass
wait("midstream")
said, _ = psql.communicate(WORKLOAD)
assert psql.returncode == 0, said
for line in said.splitlines():
    if line.startswith("ERROR:"):
        failed(line.split()[-1])
    # In milliseconds, with three decimals.
    if line.startswith("Time: "):
        matrix.timed_ns.append(round(float(line.split()[1]) * 1e6))
matrix.report()
