// What the Node programs share: what they are told, when they begin, what they report.
"use strict";

const [host, port, database, attach, sslmode] = process.argv.slice(2);

exports.connection = { host, port: Number(port), database, user: "postgres" };
// As sslmode=require: encrypted, and nobody is asked who the server is.
exports.ssl = sslmode === "require" ? { rejectUnauthorized: false } : false;
exports.timed = Array.from({ length: 7 }, (_, number) => `select timed_${number}()`);
// 64 KiB, of which the agent looks at the first 4.
exports.long = `select long_length('${"x".repeat(65536)}')`;
exports.large = "select large_row() from generate_series(1, 1000)";
exports.named = "select name from items where id = $1";

const report = { errors: {}, timed_ns: [] };

// Waits for the word to go on, if this is where the agent is attached.
exports.wait = async (where) => {
  if (where === attach) {
    console.log("ready");
    await new Promise((resolve) => process.stdin.once("data", resolve));
    process.stdin.pause();
  }
};

// Runs what the server refuses, and notes its SQLSTATE.
exports.fails = async (act) => {
  const refused = await act().then(
    () => { throw new Error("it was not refused"); },
    (error) => { if (!error.code) throw error; return error.code; },
  );
  report.errors[refused] = (report.errors[refused] ?? 0) + 1;
};

// Runs a timed statement.
exports.timing = async (act) => {
  const begun = process.hrtime.bigint();
  await act();
  report.timed_ns.push(Number(process.hrtime.bigint() - begun));
};

exports.report = () => console.log(JSON.stringify(report));
