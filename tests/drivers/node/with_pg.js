// node-postgres (pg): its own implementation of the protocol; named statements, portals (pg-cursor), COPY
// (pg-copy-streams), several statements in one query, pipelines on a connection that is set to them.
"use strict";

const { Readable, Writable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const { Client } = require("pg");
const copy = require("pg-copy-streams");
const Cursor = require("pg-cursor");
const matrix = require("./matrix.js");

async function main() {
  await matrix.wait("before");
  const client = new Client({ ...matrix.connection, ssl: matrix.ssl });
  await client.connect();
  const named = (id) => client.query({ name: "named", text: matrix.named, values: [id] });
  await named(1);
  await matrix.wait("midstream");

  for (let n = 0; n < 3; n++) await client.query("select simple_one()");
  for (let n = 0; n < 5; n++) await client.query("select extended_sum($1)", [n]);
  for (let n = 1; n <= 10; n++) await named(n);
  await client.query("insert into items (id, name) values ($1, 'a'), ($2, 'b'), ($3, 'c')", [101, 102, 103]);
  await client.query("update items set name = 'd' where id > $1", [100]);
  await client.query("delete from items where id > $1", [102]);
  await client.query(matrix.long);
  await client.query("select long_parameter($1)", ["x".repeat(65536)]);
  if ((await client.query(matrix.large)).rowCount !== 1000) throw new Error("not 1000 rows");
  await client.query("select multi_one(); select multi_two()");

  await client.query("begin");
  await client.query("insert into items (id, name) values ($1, 'kept')", [201]);
  await client.query("commit");
  await client.query("begin");
  await client.query("insert into items (id, name) values ($1, 'dropped')", [202]);
  await client.query("rollback");

  // A portal that is executed again and again, Sync only at its end.
  const cursor = client.query(new Cursor("select id from items order by id limit $1", [50]));
  let rows = 0;
  for (let read; (read = (await cursor.read(20)).length) > 0; ) rows += read;
  await cursor.close();
  if (rows !== 50) throw new Error("not 50 rows");

  const lines = Readable.from(["301\tin\n", "302\tin\n303\tin\n"]);
  await pipeline(lines, client.query(copy.from("copy items (id, name) from stdin")));
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  await pipeline(client.query(copy.to("copy items to stdout")), nowhere);
  // The client gives up in mid-copy.
  await matrix.fails(async () => {
    const giveUp = async function* () {
      yield "304\tin\n";
      throw Object.assign(new Error("given up"), { code: undefined });
    };
    const into = client.query(copy.from("copy items (id, name) from stdin"));
    const ended = new Promise((_, reject) => into.on("error", (error) => error.code && reject(error)));
    pipeline(Readable.from(giveUp()), into).catch(() => {});
    await ended;
  });

  // All of them under way at once, each with a Sync of its own; the division by zero ends only itself.
  const piping = new Client({ ...matrix.connection, ssl: matrix.ssl, pipeline: true });
  await piping.connect();
  const number = (n) => piping.query("select piped_number($1)", [n]);
  const refused = matrix.fails(() => piping.query("select piped_division($1)", [0]));
  await Promise.all([number(1), number(2), refused, number(3), number(4)]);
  await piping.end();

  await matrix.fails(() => client.query("select divided($1)", [0]));
  await matrix.fails(() => client.query("insert into items (id, name) values ($1, 'again')", [1]));
  await matrix.fails(() => client.query("selec 1"));
  // Refused when it is prepared: the name stays free, and is used again.
  await matrix.fails(() => client.query({ name: "reused", text: "select nowhere($1)", values: [1] }));
  await client.query({ name: "reused", text: "select piped_number($1)", values: [1] });

  for (const text of matrix.timed) await matrix.timing(() => client.query(text));
  await client.end();
  matrix.report();
}

main();
