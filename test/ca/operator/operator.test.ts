import { once } from 'node:events';
import { lstatSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { startAdmin } from '../../../cert-agent/base/admin.ts';
import { createLog } from '../../../cert-agent/base/log.ts';
import { startCa } from '../../../cert-agent/ca/main.ts';
import { openOperator } from '../../../cert-agent/ca/operator/open.ts';
import { connectOperator } from '../../../cert-agent/ca/operator/socket.ts';
import { makeCa, startTestCa } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';
import { tempDir } from '../../fixtures/process.ts';

const clock = new ManualClock();
const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
const remote = connectOperator(ca.socket);
const web = 'spiffe://demo.test/ns/shop/sa/web';

t.test('the socket is for its owner only', async (t) => {
  t.equal(statSync(ca.socket).mode & 0o777, 0o600);
});

t.test('a file at the path of the socket is removed only if it is a stale socket', async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const [file, link, stale, open] = ['notes.txt', 'link', 'stale.sock', 'open.sock'].map(at) as [string, ...string[]];
  const listenOn = (path: string | undefined) => startAdmin({ listen: { path: path! }, title: 'x', pages: [] });
  writeFileSync(file, 'dear diary');
  symlinkSync(file, link!);
  const refusal = (path: string | undefined) => ({
    code: 'listen_failed',
    message: `cannot listen on ${path}: a file that is not a socket is in its place`,
    hint: /^choose another path/,
  });
  await t.rejects(startTestCa(t, { socket: file }), refusal(file));
  for (const path of [file, link, dir]) await t.rejects(listenOn(path), refusal(path));
  t.equal(readFileSync(link!, 'utf8'), 'dear diary');
  const left = createServer().listen(open);
  await once(left, 'listening');
  t.teardown(() => left.close());
  await t.rejects(listenOn(open), { code: 'port_in_use' });
  // When a server closes, Node removes the file by its original name.
  const killed = createServer().listen(at('killed.sock'));
  await once(killed, 'listening');
  renameSync(at('killed.sock'), stale!);
  await new Promise((resolve) => killed.close(resolve));
  const admin = await listenOn(stale);
  t.ok(lstatSync(stale!).isSocket());
  await admin.close();
});

t.test('a token has 256 bits, and its ID and expiry are shown', async (t) => {
  const made = await remote.createToken(web, 600_000);
  t.match(made.token, /^[0-9a-f]{64}$/);
  t.match(made, { id: web, expiresAt: clock.now() + 600_000 });
  t.not((await remote.createToken(web, 600_000)).token, made.token);
});

t.test('a token that would be useless is not created', async (t) => {
  const cases: [string, number, string, string][] = [
    [
      'spiffe://demo.test/sallyport/x',
      60_000,
      'id_reserved',
      "spiffe://demo.test/sallyport/x is reserved for the CA's own parts",
    ],
    [
      'spiffe://demo.test/sallyport',
      60_000,
      'id_reserved',
      "spiffe://demo.test/sallyport is reserved for the CA's own parts",
    ],
    ['spiffe://demo.test', 60_000, 'id_reserved', 'spiffe://demo.test is the trust domain itself, not a workload'],
    ['spiffe://other.test/a', 60_000, 'id_foreign', 'spiffe://other.test/a does not belong to trust domain demo.test'],
    ['web', 60_000, 'spiffe_id_invalid', "'web' is not a SPIFFE ID: it does not begin with spiffe://"],
    [web, 9999, 'ttl_out_of_range', 'a join token cannot live for 9s'],
    [web, 604_800_001, 'ttl_out_of_range', 'a join token cannot live for 7d'],
  ];
  for (const [id, ttl, code, message] of cases) {
    await t.rejects(remote.createToken(id, ttl), { code, message }, `${id} ${ttl}`);
    await t.rejects(ca.operator.createToken(id, ttl), { code, message }, 'the same holds without a socket');
  }
});

t.test('certificates are listed and shown', async (t) => {
  const [own] = await remote.list({});
  t.match(own, { id: 'spiffe://demo.test/sallyport/ca', evidence: 'self', notAfter: clock.now() + 3_600_000 });
  t.match(await remote.show(own?.serial ?? ''), { ...own, certificate: /^MII/ });
  t.same(await remote.list({ expiringMs: 60_000 }), []);
  t.strictSame(await remote.list({ after: own! }), [], 'nothing comes after the last one');
  t.strictSame(await remote.agents(), []);
  t.equal((await remote.list({ expiringMs: 3_600_000 })).length, 1);
  await t.rejects(remote.show('00ff'), {
    code: 'not_found',
    message: 'no certificate 00ff is on record',
    hint: 'sallyport ca ls --all lists all certificates',
  });
  await t.rejects(remote.show('not/hex'), { code: 'usage', message: /^'not\/hex' is neither a serial number/ });
});

t.test('expired certificates are listed only on request', async (t) => {
  const [old] = await remote.list({});
  clock.advance(3_600_000);
  await ca.upkeep();
  const serials = async (all: boolean) => (await remote.list({ all })).map((one) => one.serial);
  t.notOk((await serials(false)).includes(old?.serial ?? ''));
  t.ok((await serials(true)).includes(old?.serial ?? ''));
});

t.test('revoking and allowing works through the socket', async (t) => {
  const id = `${web}2`;
  const done = await remote.revoke(id, 'test', { force: true });
  t.same(done, { kind: 'id', target: id, certificates: 0, renewals: 0 });
  t.same(await remote.allow(id), { id, changed: true });
  t.match(ca.logged.join(''), `"code":"revoked","target":"${id}","reason":"test"`);
});

t.test('without a CA on the socket, the error says so', async (t) => {
  const path = join(tempDir(t), 'none.sock');
  await t.rejects(connectOperator(path).list({}), {
    code: 'ca_unreachable',
    message: `no CA responds on ${path}: ENOENT`,
  });
});

t.test('commands work on the store of a stopped CA, and the next start sees the changes', async (t) => {
  const dir = await makeCa(t);
  const opened = await openOperator({ dir });
  const { token } = await opened.operator.createToken(web, 600_000);
  await opened.operator.revoke(`${web}2`, 'test', { force: true });
  const start = startCa({
    dir,
    listen: { host: '127.0.0.1', port: 0 },
    log: createLog({ component: 'ca', level: 'silent' }),
  });
  await t.rejects(start, { code: 'ca_running', message: `another process holds ${join(dir, 'store.sqlite')}` });
  await opened.close();

  const started = await startTestCa(t, { dir });
  const through = await openOperator({ dir });
  t.match(await through.operator.revoke(web, 'x'), { kind: 'id' });
  t.ok(token);
  await started.close();
});

t.test('commands do not write the store of a running CA with another socket', async (t) => {
  const dir = await makeCa(t);
  const socket = join(tempDir(t), 'elsewhere.sock');
  await startTestCa(t, { dir, socket });
  await t.rejects(openOperator({ dir }), { code: 'ca_running' });
  const opened = await openOperator({ socket });
  t.equal((await opened.operator.list({})).length, 1);
});

t.test('a directory without a CA: the error says how to create one', async (t) => {
  const dir = join(tempDir(t), 'none');
  await t.rejects(openOperator({ dir }), { code: 'ca_missing', message: `no CA in ${dir}` });
});

t.test('a failed start releases the store', async (t) => {
  const dir = await makeCa(t);
  const { port } = ca.address;
  const log = createLog({ component: 'ca', level: 'silent' });
  const start = (options: object) => startCa({ dir, listen: { host: '127.0.0.1', port: 0 }, log, ...options });
  await t.rejects(start({ listen: { host: '127.0.0.1', port } }), {
    code: 'port_in_use',
    message: `127.0.0.1:${port} is already in use`,
  });
  await t.rejects(start({ socket: ca.socket }), {
    code: 'port_in_use',
    message: `unix:${ca.socket} is already in use`,
  });
  await t.rejects(start({ leafLifeMs: 1000 }), {
    code: 'ttl_out_of_range',
    message: 'certificates cannot live for 1 seconds',
  });
  await t.rejects(start({ socket: `/tmp/${'x'.repeat(120)}` }), {
    code: 'config_invalid',
    message: /a unix socket path has at most 103 bytes$/,
    hint: 'set a shorter one with --socket',
  });
  writeFileSync(join(dir, 'bundle.json'), '{"keys":[]}');
  await t.rejects(start({}), { code: 'bundle_empty' });
  writeFileSync(
    join(dir, 'bundle.json'),
    JSON.stringify({ keys: [{ use: 'x509-svid', x5c: [await foreignRoot(t)] }] }),
  );
  await t.rejects(start({}), {
    code: 'svid_untrusted',
    message: /^no valid path leads from spiffe:\/\/demo.test\/sallyport\/ca/,
  });
  await (await openOperator({ dir })).close();
});

async function foreignRoot(t: { teardown(run: () => unknown): void }): Promise<string> {
  const { readFileSync } = await import('node:fs');
  const bundle: unknown = JSON.parse(readFileSync(join(await makeCa(t), 'bundle.json'), 'utf8'));
  return (bundle as { keys: { x5c: string[] }[] }).keys[0]?.x5c[0] ?? '';
}
