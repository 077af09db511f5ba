// What the npm package pprof-format reads of a file, as JSON: sums of the values by type, and of each sample its service and the
// names of its frames, the innermost first.
"use strict";
const { readFileSync } = require("node:fs");
const { gunzipSync } = require("node:zlib");
const { Profile } = require("pprof-format");

const profile = Profile.decode(gunzipSync(readFileSync(process.argv[2])));
const text = (at) => profile.stringTable.strings[Number(at)];
const byId = (all) => new Map(all.map((one) => [Number(one.id), one]));
const locations = byId(profile.location);
const functions = byId(profile.function);
const values = profile.sampleType.map(({ type, unit }, at) => {
  const sum = profile.sample.reduce((sum, sample) => sum + BigInt(sample.value[at]), 0n);
  return [`${text(type)}/${text(unit)}`, Number(sum)];
});
const stacks = profile.sample.map((sample) => {
  const service = sample.label.find((label) => text(label.key) === "service");
  const lines = sample.locationId.flatMap((id) => locations.get(Number(id)).line);
  return [service ? text(service.str) : "[unknown]", lines.map((line) => text(functions.get(Number(line.functionId)).name))];
});
console.log(JSON.stringify({ values, stacks }));
