// Kind 10, the record: with the access log's disk full refusals wait, new connections are refused, readiness and log
// report it, no line stays torn, and everything is on record once there is room. The stored refusals are bounded in
// bytes.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { Denials } from '../../sidecar/observe/denials.ts';
import type { PolicySet } from '../../sidecar/policy/compile.ts';
import { createFacts } from '../../sidecar/policy/facts.ts';
import { readRecords, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, startProcess, tempDir, until } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));
const logFile = new URL('../../sidecar/observe/log-file.ts', import.meta.url).href;
const logLine = new URL('../../sidecar/observe/log-line.ts', import.meta.url).href;

/** A shell in which no file grows beyond 8 KiB: writing more fails as on a full disk, and half a write is possible. */
const small = (command: string): [string, string[]] => ['bash', ['-c', `trap '' XFSZ; ulimit -f 8; exec ${command}`]];

/** A sidecar whose only port has no upstream: each request is refused, and recorded. */
async function writeSidecar(t: Owner): Promise<{ dir: string; port: number; health: number }> {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'web', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  const [port, health] = [await freePort(), await freePort()];
  writeFileSync(
    join(dir, 'web.yaml'),
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: web }\nidentity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }\noutbound: [{ port: ${port} }]\nhealth: ${health}\naccessLog: access.log\n`,
  );
  return { dir, port, health };
}

t.test('a running sidecar continues while its disk is full', async (t) => {
  const { dir, port, health } = await writeSidecar(t);
  const log = join(dir, 'access.log');
  const child = startProcess(t, ...small(`'${process.execPath}' '${bin}' sidecar --config '${join(dir, 'web.yaml')}'`));
  await child.waitFor(/"ready"/);
  const ready = async (): Promise<string> => (await fetch(`http://127.0.0.1:${health}/healthz/ready`)).text();

  // Each on a connection of its own, named so that it can be found again.
  const asked: string[] = [];
  const answered = new Set<string>();
  const ask = (): void => {
    const name = `refused-${asked.push('') - 1}`;
    const socket = createConnection(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => /^HTTP\/1\.1 404 /.test(chunk.toString('latin1')) && answered.add(name));
    socket.write(`GET /${name} HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n`);
    t.teardown(() => socket.destroy());
  };
  for (let i = 0; i < 40; i++) ask();
  await child.waitFor(
    /"code":"access_log_failed"[^\n]*cannot write the access log [^\n]*\(EFBIG\): refusals wait, new connections are refused/,
  );
  t.match(await ready(), /the access log, which cannot be written \(EFBIG\)/);
  t.notMatch(readFileSync(log, 'latin1').slice(-1), /[^\n]/, 'no torn line remains');
  const refused = await new Promise<boolean>((resolve) => {
    const socket = createConnection(port, '127.0.0.1');
    socket.on('error', () => resolve(true));
    socket.on('close', () => resolve(true));
    socket.on('data', () => resolve(false));
    socket.write('GET /late HTTP/1.1\r\nHost: nobody\r\n\r\n');
  });
  t.ok(refused, 'a new connection is refused');
  await child.waitFor(/"connection refused: the access log cannot be written \(EFBIG\)"/);

  const records = new Map<string, number>();
  const gather = (): void => {
    for (const one of readRecords(log, 0) ?? []) {
      const path = String(one['path']).slice(1);
      records.set(path, (records.get(path) ?? 0) + 1);
    }
  };
  // Free room repeatedly: more waits than fits at once.
  await until(async () => {
    gather();
    truncateSync(log);
    return /access_log_recovered/.test(child.stderr() + child.stdout()) && (await ready()) === 'ready\n';
  }, 'the sidecar to be ready again');
  await until(() => {
    gather();
    truncateSync(log);
    return [...answered].every((name) => records.has(name));
  }, 'a record of every refusal');
  t.ok(answered.size > 10, `${answered.size} were refused`);
  t.ok(
    [...records.values()].every((count) => count === 1),
    'each line appears once',
  );
  await child.stop();
});

t.test('a log that cannot be written does not end the process', async (t) => {
  const { dir, port, health } = await writeSidecar(t);
  const command = `exec '${process.execPath}' '${bin}' sidecar --config '${join(dir, 'web.yaml')}' >/dev/full 2>&1`;
  const child = startProcess(t, 'bash', ['-c', command]);
  await until(
    () =>
      fetch(`http://127.0.0.1:${health}/healthz/ready`).then(
        ({ status }) => status === 200,
        () => false,
      ),
    'the sidecar to be ready',
  );
  t.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 404, 'the process serves');
  t.equal(child.process.exitCode, null);
});

t.test('lines that a full disk cut are written again, whole and once', async (t) => {
  const dir = tempDir(t);
  const file = join(dir, 'access.log');
  const program = join(dir, 'writer.mjs');
  writeFileSync(
    program,
    `import { LogFile } from ${JSON.stringify(logFile)};
import { LogLine } from ${JSON.stringify(logLine)};
let dropped = 0;
const log = new LogFile(process.argv[2], { dropped: () => dropped++, changed: (trouble) => console.log('trouble ' + trouble) });
for (let i = 0; i < 30; i++) log.add(new LogLine().raw('line ' + i + ' ' + '.'.repeat(700) + '\\n'), false);
process.stdin.on('data', async () => { await log.close(); console.log('dropped ' + dropped); process.exit(0); });
`,
  );
  const child = startProcess(t, ...small(`'${process.execPath}' '${program}' '${file}'`));
  await child.waitFor(/trouble EFBIG/);
  const seen: number[] = [];
  const gather = (): number => {
    const text = readFileSync(file, 'latin1');
    t.ok(text === '' || text.endsWith('\n'), 'no torn line remains');
    seen.push(
      ...text
        .split('\n')
        .filter(Boolean)
        .map((line) => Number(/^line (\d+) \.{700}$/.exec(line)?.[1])),
    );
    truncateSync(file);
    return seen.length;
  };
  // A write may be between its two halves when we look: only the final state counts.
  await until(
    () => /trouble EFBIG/.test(child.stdout()) && readFileSync(file, 'latin1').endsWith('\n') && gather() >= 1,
    'room',
  );
  await until(() => {
    const text = readFileSync(file, 'latin1');
    return text !== '' && text.endsWith('\n') && gather() >= 30;
  }, 'all lines');
  t.strictSame(
    seen,
    Array.from({ length: 30 }, (_, i) => i),
  );
  await child.waitFor(/trouble undefined/);
  child.process.stdin!.write('end\n');
  await child.waitFor(/dropped 0/);
});

t.test('lines lost at the exit are counted one by one', async (t) => {
  const dir = tempDir(t);
  const file = join(dir, 'access.log');
  const program = join(dir, 'writer.mjs');
  writeFileSync(
    program,
    `import { LogFile } from ${JSON.stringify(logFile)};
import { LogLine } from ${JSON.stringify(logLine)};
let dropped = 0;
const log = new LogFile(process.argv[2], () => dropped++);
for (let i = 0; i < 30; i++) log.add(new LogLine().raw('line ' + i + ' ' + '.'.repeat(700) + '\\n'), false);
await log.close();
console.log('dropped ' + dropped);
`,
  );
  const child = startProcess(t, ...small(`'${process.execPath}' '${program}' '${file}'`));
  const [, dropped] = await child.waitFor(/dropped (\d+)/);
  const text = readFileSync(file, 'latin1');
  t.ok(text.endsWith('\n'), 'no torn line remains');
  t.equal(text.split('\n').length - 1 + Number(dropped), 30);
});

t.test('large refused requests do not fill memory', async (t) => {
  const denials = new Denials();
  const names = Array.from({ length: 100 }, (_, i) => `x-${i}`);
  const set = { headers: new Set(names), tables: {} } as unknown as PolicySet;
  const head = 'h'.repeat(58_000);
  for (let i = 0; i < 3000; i++) {
    const facts = createFacts({
      ...{ method: 'GET', path: `/${head}${i}`, host: 'a' },
      headers: Object.fromEntries(names.map((name) => [name, head])),
    });
    const exchange = { decisionId: `d-${i}`, startedAt: 0, policy: 'none' } as Exchange;
    denials.note(exchange, new SallyportError('policy_denied', head), facts, set);
  }
  t.ok(denials.bytes <= 4 * 1024 * 1024, `${denials.bytes} bytes`);
  t.ok(denials.list().length > 50, 'the last lines are there');
  t.equal(denials.list()[0]!.id, 'd-2999');
  t.ok(denials.list()[0]!.request.length < 3000);
});

t.test('a refusal that is noted twice is counted once', async (t) => {
  const denials = new Denials();
  const facts = createFacts({ method: 'GET', path: '/', host: 'a' });
  const set = { headers: new Set(), tables: {} } as unknown as PolicySet;
  const exchange = { decisionId: 'd-1', startedAt: 0, policy: 'none' } as Exchange;
  const error = new SallyportError('policy_denied', 'x'.repeat(3000));
  denials.note(exchange, error, facts, set);
  const { bytes } = denials;
  for (let i = 0; i < 3000; i++) denials.note(exchange, error, facts, set);
  t.equal(denials.bytes, bytes);
  t.equal(denials.list().length, 1);
});
