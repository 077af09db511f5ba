// Spends all its CPU time in one function, which is compiled while it runs. Argument: seconds.
function inner(units) {
  let sum = 0;
  for (let i = 0; i < units; i++) sum += Math.sqrt(i) * i;
  return sum;
}
function outer() {
  return inner(2000000);
}
const end = Date.now() + 1000 * Number(process.argv[2]);
let sum = 0;
// Until it is compiled.
for (let i = 0; i < 50; i++) sum += outer();
console.log("ready");
while (Date.now() < end) sum += outer();
console.log(sum > 0);
