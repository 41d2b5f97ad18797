// The clocks of agent and CA are an hour apart. Nothing is accepted that either of them thinks is expired or not valid
// yet, the agent says that clocks differ, and it joins or renews by itself once they agree.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type Clock, systemClock } from '../../cert-agent/base/clock.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { startTestCa } from '../fixtures/ca.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { tempDir, until } from '../fixtures/process.ts';

const hourMs = 3_600_000;
const id = 'spiffe://demo.test/ns/shop/sa/web';

/** The machine's clock, which somebody sets. */
class SetClock implements Clock {
  offsetMs: number;

  constructor(offsetMs: number) {
    this.offsetMs = offsetMs;
  }

  now(): number {
    return systemClock.now() + this.offsetMs;
  }

  monotonic(): number {
    return systemClock.monotonic();
  }

  after(ms: number, run: () => void): () => void {
    return systemClock.after(ms, run);
  }
}

async function startBoth(t: Test, agentOffsetMs: number) {
  const ca = await startTestCa(t);
  const dir = tempDir(t);
  const tokenFile = join(dir, 'token');
  const { token } = await ca.operator.createToken(id, 600_000);
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const clock = new SetClock(agentOffsetMs);
  const captured = captureLog();
  const agent = startAgent({
    ...{ caUrl: `https://127.0.0.1:${ca.address.port}`, caBundleFile: join(ca.dir, 'bundle.pem') },
    ...{ tokenFile, outDir: join(dir, 'out'), log: captured.log, clock },
  });
  t.teardown(() => agent.close());
  return { ca, agent, clock, captured };
}

for (const [name, offsetMs, code, words] of [
  ['behind', -hourMs, 'svid_not_yet_valid', /not valid before/],
  ['ahead', hourMs, 'svid_expired', /expired at/],
] as const) {
  t.test(`an agent an hour ${name} does not join, and joins once its clock is right`, async (t) => {
    const { agent, clock } = await startBoth(t, offsetMs);
    const error = await until(() => agent.status().lastError, 'an error');
    t.match(error, { code, message: words, hint: /clocks/ });
    t.equal(agent.identity.current(), undefined);
    clock.offsetMs = 0;
    const identity = await until(() => agent.identity.current(), 'an SVID', 30_000);
    t.equal(identity.svid.id.uri, id);
  });

  t.test(`an agent that has an SVID when its clock jumps an hour ${name} recovers when it jumps back`, async (t) => {
    const { agent, clock } = await startBoth(t, 0);
    const first = await until(() => agent.identity.current(), 'an SVID');
    clock.offsetMs = offsetMs;
    await until(() => agent.status().lastError?.code === code, 'an error');
    clock.offsetMs = 0;
    await until(() => agent.status().lastError === undefined && agent.identity.current(), 'no error', 30_000);
    t.equal(agent.identity.current()?.svid.id.uri, first.svid.id.uri);
  });
}
