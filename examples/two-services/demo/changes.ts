// The steps that change something while everything runs: a policy, and a revocation.

import { join } from 'node:path';
import { idOf } from './ask.ts';
import { type Finding, reasonOfCut, toOrders } from './step.ts';
import { addPolicy, credentialOf, type Parts, type World } from './world.ts';

/** The connection stays open throughout: policy evaluates each request. */
export async function policyAdded(world: World): Promise<Finding> {
  const direct = toOrders(world, credentialOf(world, 'reports'));
  try {
    const { status } = await direct.ask();
    const since = performance.now();
    addPolicy(world, 'reports-may-read.yaml');
    await world.processes.until(async () => (await direct.ask()).status === 200, 'the new policy');
    return [`${status}, and 200 after ${msSince(since)}`, status === 403];
  } finally {
    direct.end();
  }
}

/** A revoked workload loses its open connection, and gets no new one. */
export async function revoked(world: World, parts: Parts): Promise<Finding> {
  const { processes } = world;
  const credential = credentialOf(world, 'reports');
  const direct = toOrders(world, credential);
  let isCut = false;
  void direct.closed.then(() => {
    isCut = true;
  });
  const { status } = await direct.ask();
  await processes
    .run(
      ...['ca', 'revoke', idOf('reports'), '--dir', join('run', 'ca'), '--wait', '25s'],
      ...['--reason', 'part of the demo'],
    )
    .catch(throwUnlessRevoked);
  const since = performance.now();
  await processes.until(() => isCut, 'the open connection of reports to be cut').finally(direct.end);
  const took = msSince(since);
  const reason = await reasonOfCut(world, parts, credential);
  return [`${status}, cut after ${took}, then ${reason}`, status === 200 && reason === 'svid_denied'];
}

/** The exit code is 1 also where an agent is not connected at that moment. What counts here is the cut. */
function throwUnlessRevoked(error: unknown): void {
  const { stdout = '' } = error as { readonly stdout?: string };
  if (!stdout.startsWith('revoked ')) throw error;
}

function msSince(start: number): string {
  return `${Math.round(performance.now() - start)} ms`;
}
