/** One thread of `npm run explore`: takes its request from `workerData` and posts what it finds. */
import { parentPort, workerData } from "node:worker_threads";

const { href, request } = workerData;
const explorer = await import(href);
const host = { tick: (f) => process.nextTick(f) };
const plain = ({ of, seed, violation, isRepeatable }) => ({
  name: of.name,
  seed,
  message: violation.message,
  isRepeatable,
});

if (request.explore !== undefined) {
  const { names, ...seeds } = request.explore;
  const cases = names.map(explorer.caseByName);
  let at = seeds.from;
  await explorer.explore({ ...seeds, cases }, host, (schedules, steps, findings) => {
    parentPort.postMessage({ schedules, steps, findings: findings.map(plain), at: `seed ${at}` });
    at += seeds.stride;
  });
} else {
  const { mutation, names, seeds } = request.mutation;
  const finding = await explorer.findMutation(mutation, names.map(explorer.caseByName), seeds, host);
  parentPort.postMessage({ finding: finding === null ? null : plain(finding) });
}
