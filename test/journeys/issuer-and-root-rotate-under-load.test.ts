// Issuer and root of a CA are replaced while four workloads call each other without a pause. One of them is offline
// when the new root is distributed and activated. No request fails.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { runCommand } from '../fixtures/command.ts';
import { allowAll } from '../fixtures/mesh.ts';
import { type Child, freePort, startSallyport, tempDir, until } from '../fixtures/process.ts';

const names = ['a', 'b', 'c', 'd'] as const;
type Name = (typeof names)[number];
const idOf = (name: string): string => `spiffe://demo.test/ns/shop/sa/${name}`;

/** Four services that may all call each other, each with a sidecar that runs the agent inside. */
async function startFour(t: Test) {
  const ca = await makeCa(t);
  let caProcess = await ca.serve();
  const dir = tempDir(t);
  const app = createServer((request, response) => response.end(request.headers.host));
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const { port: appPort } = app.address() as AddressInfo;
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'policy.yaml'), allowAll);
  const ports = new Map<Name, { inPort: number; outPort: number }>();
  for (const name of names) ports.set(name, { inPort: await freePort(), outPort: await freePort() });
  for (const name of names) {
    const { inPort, outPort } = ports.get(name)!;
    await ca.writeToken(idOf(name), join(dir, `${name}.token`));
    const others = names.filter((one) => one !== name);
    const upstreams = others.map(
      (one) => `  ${one}: { endpoints: ["127.0.0.1:${ports.get(one)!.inPort}"], identity: ${idOf(one)} }\n`,
    );
    writeFileSync(
      join(dir, `${name}.yaml`),
      `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: ${name} }
identity: { ca: { url: "${ca.url}", bundle: ${ca.bundleFile}, tokenFile: ${name}.token, outDir: ${name} } }
limits: { drainMinimum: 0s }
policies: policies/
inbound: [{ port: ${inPort}, bind: 127.0.0.1, app: 127.0.0.1:${appPort} }]
outbound: [{ port: ${outPort} }]
upstreams:
${upstreams.join('')}`,
    );
  }
  const start = (name: Name): Child => startSallyport(t, ['sidecar', '--config', join(dir, `${name}.yaml`)]);
  return {
    ca,
    start,
    outOf: (name: Name) => ports.get(name)!.outPort,
    async restartCa() {
      await caProcess.stop('SIGKILL');
      caProcess = await ca.serve();
    },
  };
}

function call(port: number, host: string): Promise<string> {
  return new Promise((resolve) => {
    const request = get({ port, host: '127.0.0.1', headers: { host }, timeout: 10_000 }, (response) => {
      response.resume();
      response.once('end', () => resolve(String(response.statusCode)));
      response.once('error', (error) => resolve(error.message));
    });
    request.once('error', (error) => resolve(error.message));
  });
}

t.test('issuer and root rotate under load', { timeout: 280_000 }, async (t) => {
  const { ca, start, outOf, restartCa } = await startFour(t);
  const sidecars = new Map(names.map((name) => [name, start(name)]));
  await Promise.all([...sidecars.values()].map((one) => one.waitFor(/"code":"ready"/)));

  // Each calls each of those that are up, all the time.
  const failed: string[] = [];
  const up = new Set<Name>(names);
  let calls = 0;
  let going = true;
  const caller = async (from: Name): Promise<void> => {
    for (let n = 0; going; n++) {
      const to = names[n % names.length]!;
      // A pace that leaves the machine to the commands.
      await pause(10);
      if (to === from || !up.has(from) || !up.has(to)) continue;
      const answer = await call(outOf(from), to);
      calls++;
      // Who was taken down meanwhile may fail.
      if (answer !== '200' && up.has(from) && up.has(to)) failed.push(`${from} to ${to}: ${answer}`);
    }
  };
  const callers = names.map(caller);

  const rotate = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCommand(t, ['ca', 'rotate', ...args, '--dir', ca.directory]);
    return { code, text: stdout + stderr };
  };
  const good = async (...args: string[]): Promise<string> => {
    const { code, text } = await rotate(...args);
    t.equal(code, 0, `${args.join(' ')}: ${text}`);
    return text;
  };

  await good('issuer');
  await restartCa();

  await good('root', 'prepare');
  t.match(await rotate('issuer'), { code: 1, text: /the root is being rotated \(prepared\)/ });
  t.match(await rotate('root', 'activate'), { code: 1, text: /cannot be done now.*\n.*rotate root distribute/ });
  // d is offline while the root is distributed and activated.
  up.delete('d');
  await sidecars.get('d')!.stop('SIGKILL');
  await good('root', 'distribute');
  await restartCa();
  await until(async () => /agents +3 of 4 trust the new root/.test(await good('status')), 'three acknowledgements');
  t.match(await good('status'), /sa\/d +not connected/);
  t.match(await rotate('root', 'activate'), { code: 1, text: /1 known workload does not trust.*sa\/d / });
  t.match(await rotate('root', 'activate', '--except', 'e'), {
    code: 1,
    text: /--except e names none of the blocking workloads/,
  });
  t.match(await good('root', 'activate', '--except', 'd'), /excepted {2}spiffe:\/\/demo\.test\/ns\/shop\/sa\/d\n/);
  await restartCa();
  t.match(await rotate('root', 'remove'), { code: 1, text: /still ha(ve|s a) certificates? of the old root/ });
  sidecars.set('d', start('d'));
  await sidecars.get('d')!.waitFor(/"code":"ready"/);
  up.add('d');
  await until(async () => (await rotate('root', 'remove')).code === 0, 'certificates of the new root for all');
  t.match(await good('status'), /rotation {2}none is under way/);
  await restartCa();
  const before = calls;
  await until(() => calls > before + 40, 'calls under the new root alone');
  going = false;
  await Promise.all(callers);
  const refusals = [...sidecars.values()].flatMap((one) => one.stdout().match(/^.*"response_code":5.*$/gm) ?? []);
  t.strictSame(failed, [], { refusals });
  t.ok(calls > 20, `${calls} calls`);
});
