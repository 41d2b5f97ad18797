// Output to a terminal and to a pipe.

import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import t from 'tap';
import { reflow, widthOf } from '../../cert-agent/base/wrap.ts';
import { runCommand } from '../fixtures/command.ts';
import { freePort, startProcess, tempDir } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));

t.test('a reader that closes the pipe gets no stack trace', async (t) => {
  const dir = tempDir(t);
  const questions = join(dir, 'questions.jsonl');
  writeFileSync(questions, `${JSON.stringify({ from: null, method: 'GET', path: '/' })}\n`.repeat(5000));
  const script = `"$@" | head -1; echo "ended with \${PIPESTATUS[0]}"`;
  const child = startProcess(t, 'bash', [
    ...['-c', script, 'bash', process.execPath, bin],
    ...['policy', 'eval', '--batch', questions],
  ]);
  t.equal(await child.exited, 0);
  t.match(child.stdout(), /^\{.*\}\nended with 141\n$/, 'one line, and the exit code of SIGPIPE');
  t.equal(child.stderr(), '', 'nothing');
});

const narrow = { env: { COLUMNS: '40' } };

/** The lines of a text that do not fit, and are more than one word. */
function tooLong(text: string, width = 40): string[] {
  return text.split('\n').filter((line) => line.length > width && /\S\s+\S/.test(line));
}

const wordsOf = (text: string): string => text.split(/\s+/).join(' ');

/** The commands that a help names, without `help`. */
function commandsIn(help: string): string[] {
  const [, list = ''] = /^Commands:\n((?: .*\n)+)/m.exec(help) ?? [];
  return [...list.matchAll(/^ {2}([a-z][\w-]*)/gm)].flatMap(([, name]) => (name === 'help' ? [] : [name!]));
}

t.test('the help of every command fits 40 columns, with all of its words', async (t) => {
  const look = async (command: readonly string[]): Promise<void> => {
    const [wide, small] = await Promise.all([
      runCommand(t, [...command, '--help']),
      runCommand(t, [...command, '--help'], narrow),
    ]);
    t.strictSame(tooLong(small.stdout), [], command.join(' '));
    t.equal(wordsOf(small.stdout), wordsOf(wide.stdout));
    for (const name of commandsIn(wide.stdout)) await look([...command, name]);
  };
  await look([]);
});

t.test('errors, problems and tables fit 40 columns', async (t) => {
  const file = join(tempDir(t), 'p.yaml');
  writeFileSync(
    file,
    'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a, rules: [] }\n',
  );
  for (const [args, code] of [
    [['status', '--admin', '127.0.0.1:1'], 3],
    [['inspect'], 2],
    [['sidecar', '--konfig', 'x'], 2],
    [['explain', 'VirtualService'], 2],
    [['check', file], 1],
  ] as const) {
    const { stderr, ...result } = await runCommand(t, args, narrow);
    t.equal(result.code, code);
    t.strictSame(tooLong(stderr), [], args.join(' '));
    t.equal(wordsOf(stderr), wordsOf((await runCommand(t, args)).stderr));
  }
});

t.test('findings and explanations fit 40 columns, and are the same words', async (t) => {
  const dir = tempDir(t);
  const policy = join(dir, 'policy.yaml');
  writeFileSync(
    policy,
    `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: orders-of-the-shop-may-be-read-by-web, namespace: shop }
spec:
  rules:
    - from: [{ source: { principals: [demo.test/ns/shop/sa/web] } }]
      to: [{ operation: { methods: [get], paths: [/orders/*] } }]
`,
  );
  const config = join(dir, 'sidecar.yaml');
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: run/svid.pem, key: run/svid.key, bundle: run/bundle.json } }
inbound: [{ port: ${await freePort()}, bind: 127.0.0.1, app: 127.0.0.1:1 }]
`,
  );
  for (const [args, code] of [
    [['policy', 'explain', '--policies', policy, '--to', 'shop/orders:80', 'GET', '/orders/7'], 1],
    [['policy', 'eval', '--policies', policy, '--to', 'shop/orders:80', 'GET', '/orders/7'], 1],
    [['policy', 'lint', policy], 1],
    [['doctor', '--config', config], 1],
  ] as const) {
    const small = await runCommand(t, args, { env: { COLUMNS: '40', FORCE_COLOR: '1' } });
    t.equal(small.code, code, args.join(' '));
    t.not(small.stdout, '', 'something is printed');
    t.strictSame(tooLong(stripVTControlCharacters(small.stdout)), [], args.join(' '));
    t.equal(wordsOf(stripVTControlCharacters(small.stdout)), wordsOf((await runCommand(t, args)).stdout));
  }
});

t.test('a table that is too wide is printed in blocks', async (t) => {
  const line = {
    ...{ id: 'd-1', time: '2026-01-01T00:00:00.000Z', code: 'policy_denied', policy: 'shop/orders' },
    ...{ from: 'spiffe://demo.test/ns/shop/sa/web', request: 'GET /1' },
  };
  const admin = createServer((_, response) => response.end(JSON.stringify([line, line])));
  await new Promise<void>((resolve) => admin.listen(0, '127.0.0.1', resolve));
  t.teardown(() => admin.close());
  const at = ['denials', '--admin', `127.0.0.1:${(admin.address() as AddressInfo).port}`];
  const block = [
    'TIME     2026-01-01T00:00:00.000Z',
    'ID       d-1',
    'CODE     policy_denied',
    'FROM     spiffe://demo.test/ns/shop/sa/web',
    'REQUEST  GET /1',
    'POLICY   shop/orders',
    '',
  ].join('\n');
  t.equal((await runCommand(t, at, narrow)).stdout, `${block}\n${block}`);
  t.match((await runCommand(t, at, { env: { COLUMNS: '200' } })).stdout, /^TIME +ID +CODE +FROM/);
});

t.test('a text for a width', async (t) => {
  t.equal(
    reflow('one two three\nfour five\n\n  six seven eight nine ten\n  x\n', 20),
    'one two three four\nfive\n\n  six seven eight\n    nine ten\n  x\n',
  );
  t.equal(widthOf({ columns: 100 }, { COLUMNS: '40' }), 100);
  t.equal(widthOf({}, { COLUMNS: '40' }), 40);
  for (const env of [{}, { COLUMNS: '' }, { COLUMNS: '3' }, { COLUMNS: 'x' }]) t.equal(widthOf({}, env), undefined);
});
