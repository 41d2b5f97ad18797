// How long an unauthenticated client can block a listener's event loop: the longest stall, the best of five tries, for
// each kind of listener and every chain of test/fixtures/hostile.ts. It should stay under 5 ms.
//
//   npm run perf:strangers

import { hostileChains, longestStall, startStrangeClient } from '../test/fixtures/hostile.ts';
import { createCredential } from '../test/fixtures/pki.ts';
import { startCaTarget, startGatewayTarget, startSidecarTarget, type Target } from '../test/fixtures/under-attack.ts';

const owned: (() => unknown)[] = [];
const owner = { teardown: (run: () => unknown) => void owned.push(run) };
const client = await startStrangeClient(owner);

interface Stall {
  readonly name: string;
  readonly ms: number;
}

async function measure(target: Target): Promise<Stall[]> {
  const good = await createCredential(target.authority, target.uri);
  const all = [{ name: 'a good chain', ...good }, ...hostileChains(target.authority, target.uri)];
  const stalls: Stall[] = [];
  for (const shown of all) {
    let ms = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 5; i++)
      ms = Math.min(ms, await longestStall(() => client.present(target.port, shown, target.text, target.servername)));
    stalls.push({ name: shown.name, ms });
  }
  return stalls;
}

const columns: [Target, Stall[]][] = [];
for (const start of [startSidecarTarget, startCaTarget, startGatewayTarget]) {
  const target = await start(owner);
  columns.push([target, await measure(target)]);
}
const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
console.log(row(['unauthenticated-event-loop-ms', ...columns.map(([{ name }]) => name)]));
console.log(row(['---', ...columns.map(() => '---')]));
for (const [i, { name }] of columns[0]![1].entries())
  console.log(row([name, ...columns.map(([, stalls]) => stalls[i]!.ms.toPrecision(2))]));
for (const end of owned.reverse()) await end();
