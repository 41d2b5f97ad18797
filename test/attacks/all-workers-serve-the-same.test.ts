// Kind 8, one and many: which route has a host name, or which policy a target, is decided once for all workers of a
// gateway. A restarted worker follows the first, whatever dates documents and files have by then; and it serves nothing
// that the first does not.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { writeGateway } from '../fixtures/gateway.ts';
import { readState } from '../fixtures/mesh.ts';
import { documentOf, webGateway } from '../fixtures/plan.ts';
import { freePort, startSallyport, until } from '../fixtures/process.ts';

const old = ', creationTimestamp: "2001-01-01T00:00:00Z"';
const route = (name: string, host: string, app: string, metadata = ''): string =>
  documentOf(
    'HTTPRoute',
    name,
    `{ parentRefs: [{ name: g }], hostnames: [${host}], rules: [{ backendRefs: [{ name: ${app}, port: 80 }] }] }`,
    metadata,
  );
const policy = (name: string, defaultAction: string, metadata = ''): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: ${name}, namespace: shop${metadata} }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: closed }], authorization: { defaultAction: ${defaultAction}, rules: [] } }\n`;

async function startPair(t: Test, documents: Readonly<Record<string, string>>) {
  const [app, thief] = [await startEcho(t, 'app'), await startEcho(t, 'thief')];
  const files = await writeGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${app}"] }, thief: { endpoints: ["127.0.0.1:${thief}"] } }\nbackends: { shop/app:80: app, shop/thief:80: thief }\nlimits: { drainMinimum: 0s }\n`,
    documents: { 'g.yaml': webGateway, ...documents },
  });
  const pair = startSallyport(t, ['gateway', '--config', files.file, '--workers', '2']);
  await pair.waitFor(/"code":"ready"/);
  const state = () => readState(files.admin) as Promise<Record<string, unknown>>;
  return {
    ...files,
    state,
    waitFor: (pattern: RegExp) => pair.waitFor(pattern),
    /** Writes documents, and waits until both workers have applied them. */
    async write(name: string, text: string): Promise<void> {
      const loaded = (component: string): number => {
        const lines = pair.stderr().split('\n');
        return lines.filter((one) => one.includes(`"${component}"`) && one.includes('"config_loaded"')).length;
      };
      const before = [loaded('gateway'), loaded('sidecar 2/2')];
      writeFileSync(join(files.dir, 'documents', name), text);
      await until(
        () => loaded('gateway') > before[0]! && loaded('sidecar 2/2') > before[1]!,
        'both to have applied the change',
      );
    },
    /** Kills the second worker as the kernel does when memory is short; resolves when it is known to be gone. */
    async kill(): Promise<void> {
      const { workerRestarts } = (await state()) as { workerRestarts: number };
      const [child] = readFileSync(`/proc/${pair.process.pid}/task/${pair.process.pid}/children`, 'utf8')
        .trim()
        .split(' ');
      process.kill(Number(child), 'SIGKILL');
      await until(async () => ((await state())['workerRestarts'] as number) > workerRestarts, 'the worker to be gone');
    },
    ready: () => until(async () => (await state())['ready'] === true, 'all to be ready'),
    /** The responses on so many connections that both workers get some, each response once. */
    async answers(host: string): Promise<string[]> {
      const all = await Promise.all(
        Array.from({ length: 32 }, () => ask(files.port('shop/g:80'), '/', { headers: { host } })),
      );
      return [...new Set(all.map(({ status, echo }) => `${status} ${echo.app}`.trim()))];
    },
  };
}

t.test('a restarted worker serves the same as the first', async (t) => {
  const pair = await startPair(t, {
    'a.yaml': route('pay', 'pay.test', 'app') + route('closed', 'closed.test', 'app') + policy('strict', 'Deny'),
    'b.yaml': route('first', 'first.test', 'app'),
  });
  await pair.write(
    'z.yaml',
    route('thief', 'pay.test', 'thief', old) + policy('lax', 'Allow', old) + route('second', 'first.test', 'thief'),
  );
  // Of the two for first.test the served one is the younger file from now on.
  await pair.write('b.yaml', `${route('first', 'first.test', 'app')}# a comment\n`);
  await pair.kill();
  await pair.ready();
  t.strictSame(await pair.answers('pay.test'), ['200 app']);
  t.strictSame(await pair.answers('closed.test'), ['403']);
  t.strictSame(await pair.answers('first.test'), ['200 app']);

  t.test('a restarted worker continues to follow the first', async (t) => {
    // The owners of the name and the target are gone: those that waited have them, in both.
    await pair.write('a.yaml', route('closed', 'closed.test', 'app'));
    await until(async () => (await pair.answers('closed.test')).join() === '200 app', 'the other policy to apply');
    t.strictSame(await pair.answers('pay.test'), ['200 thief']);
    await pair.write(
      'a.yaml',
      route('pay', 'pay.test', 'app') +
        route('closed', 'closed.test', 'app') +
        policy('strict', 'Deny', ', creationTimestamp: "1999-01-01T00:00:00Z"'),
    );
    await pair.kill();
    await pair.ready();
    t.strictSame(await pair.answers('closed.test'), ['200 app'], 'the later one stays the later one');
    t.strictSame(await pair.answers('pay.test'), ['200 thief']);
  });
});

t.test('a worker serves nothing while the first has other documents', async (t) => {
  const closed = route('closed', 'closed.test', 'app');
  const pair = await startPair(t, { 'a.yaml': closed + policy('strict', 'Deny') });
  const good = readFileSync(pair.file, 'utf8');
  // The first does not move to another admin port, and applies nothing of that change. The second has no pages, and
  // sees no error.
  writeFileSync(pair.file, good.replace(/^admin: .*$/m, `admin: ${await freePort()}`));
  await pair.waitFor(/admin cannot change while/);
  await pair.waitFor(/"component":"sidecar 2\/2"[^\n]*"code":"config_loaded","generation":2/);
  writeFileSync(join(pair.dir, 'documents', 'a.yaml'), closed + policy('lax', 'Allow'));
  await pair.waitFor(/"component":"sidecar 2\/2"[^\n]*"code":"config_loaded","generation":3/);
  t.strictSame(await pair.answers('closed.test'), ['403']);
  await pair.kill();
  await until(
    async () =>
      JSON.stringify((await pair.state())['waitingFor']).includes('the first worker to have the same documents'),
    'the worker to wait',
  );
  t.strictSame(await pair.answers('closed.test'), ['403']);
  writeFileSync(pair.file, good);
  await pair.ready();
  t.strictSame(await pair.answers('closed.test'), ['200 app']);
});
