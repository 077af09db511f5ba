// postgres.js: its own implementation of the protocol; prepares each statement under a name, and sends what is asked
// at once without waiting for answers.
"use strict";

const { Readable, Writable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const postgres = require("postgres");
const matrix = require("./matrix.js");

async function main() {
  await matrix.wait("before");
  const { host, ...rest } = matrix.connection;
  const place = host.startsWith("/") ? { path: `${host}/.s.PGSQL.${rest.port}` } : { host };
  const sql = postgres({ ...rest, ...place, ssl: matrix.ssl, max: 1, onnotice: () => {} });
  const named = (id) => sql`select name from items where id = ${id}`;
  await named(1);
  await matrix.wait("midstream");

  for (let n = 0; n < 3; n++) await sql`select simple_one()`.simple();
  for (let n = 0; n < 5; n++) await sql`select extended_sum(${n})`;
  for (let n = 1; n <= 10; n++) await named(n);
  for (let n = 0; n < 5; n++) await sql.unsafe("select unnamed_number($1)", [n]);
  await sql`insert into items ${sql([101, 102, 103].map((id) => ({ id, name: "a" })))}`;
  await sql`update items set name = 'd' where id > ${100}`;
  await sql`delete from items where id > ${102}`;
  await sql.unsafe(matrix.long);
  await sql`select long_parameter(${"x".repeat(65536)})`;
  if ((await sql.unsafe(matrix.large)).length !== 1000) throw new Error("not 1000 rows");
  await sql`select multi_one(); select multi_two()`.simple();

  await sql.begin((own) => own`insert into items (id, name) values (${201}, 'kept')`);
  await sql
    .begin(async (own) => {
      await own`insert into items (id, name) values (${202}, 'dropped')`;
      throw new Error("rolled back");
    })
    .catch((error) => { if (error.message !== "rolled back") throw error; });

  let rows = 0;
  await sql`select id from items order by id limit 50`.cursor(20, (batch) => { rows += batch.length; });
  if (rows !== 50) throw new Error("not 50 rows");

  const into = await sql`copy items (id, name) from stdin`.writable();
  await pipeline(Readable.from(["301\tin\n", "302\tin\n303\tin\n"]), into);
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  await pipeline(await sql`copy items to stdout`.readable(), nowhere);

  // All of them under way at once, each with a Sync of its own; the division by zero ends only itself.
  await sql`select piped_number(${0})`;
  await sql`select piped_division(${1})`;
  const numbers = (from) => Array.from({ length: 40 }, (_, n) => sql`select piped_number(${from + n})`);
  const first = numbers(1);
  const refused = matrix.fails(() => sql`select piped_division(${0})`);
  await Promise.all([...first, refused, ...numbers(41)]);

  await matrix.fails(() => sql`select divided(${0})`);
  await matrix.fails(() => sql`insert into items (id, name) values (${1}, 'again')`);
  await matrix.fails(() => sql`selec 1`);

  for (const text of matrix.timed) await matrix.timing(() => sql.unsafe(text));
  await sql.end();
  matrix.report();
}

main();
