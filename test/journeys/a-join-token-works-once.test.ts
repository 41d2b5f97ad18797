import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ask, newKey } from '../fixtures/ca.ts';
import { runSallyport, startSallyport, tempDir } from '../fixtures/process.ts';

const dir = join(tempDir(t), 'ca');
const web = 'spiffe://demo.test/ns/shop/sa/web';

t.test('a join token works once', async (t) => {
  const made = await runSallyport(t, ['ca', 'init', '--trust-domain', 'demo.test', '--dir', dir]);
  t.equal(made.code, 0, made.stderr);
  const ca = startSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']);
  const [, port] = await ca.waitFor(/"code":"listening","address":"127\.0\.0\.1:(\d+)"/);
  const root = readFileSync(join(dir, 'bundle.pem'), 'utf8');
  const enrol = (csr: string, token: string) => ask(Number(port), root, { path: '/v1/svid', body: { csr, token } });

  const created = await runSallyport(t, ['ca', 'token', 'create', '--dir', dir, '--spiffe-id', web, '--ttl', '10m']);
  t.match(created, { code: 0, stdout: /^[0-9a-f]{64}\n$/ }, 'only the token is on stdout');
  t.match(created.stderr, /^grants spiffe:\/\/demo\.test\/ns\/shop\/sa\/web to the first key that uses it, until /);
  const token = created.stdout.trim();

  const [first, second] = [await newKey(), await newKey()];
  const answer = await enrol(first.csr, token);
  t.match(answer, { status: 200, json: { id: web } });
  t.match(await enrol(second.csr, token), { status: 403, json: { code: 'token_used' } });
  t.equal(
    (await enrol(first.csr, token)).json.serial,
    answer.json.serial,
    'its first key gets the same certificate again',
  );

  const listed = await runSallyport(t, ['ca', 'ls', '--dir', dir, '--json']);
  const serials = (JSON.parse(listed.stdout) as { id: string; serial: string }[]).filter((one) => one.id === web);
  t.match(serials, [{ serial: answer.json.serial }], 'one certificate is on record');
  const shown = await runSallyport(t, ['ca', 'show', answer.json.serial, '--dir', dir]);
  t.match(
    shown.stdout,
    /^serial {4}[0-9a-f]{32}\nID {8}spiffe:\/\/demo\.test\/ns\/shop\/sa\/web\n[\s\S]*-----END CERT/,
  );

  t.equal(await ca.stop(), 0, 'SIGTERM ends it with 0');
  t.match(ca.stderr(), '"code":"stopped"');
  t.notOk(ca.stderr().includes(token), 'the log contains no token');
});
