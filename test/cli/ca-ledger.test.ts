import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ask, makeCa, newKey, startTestCa } from '../fixtures/ca.ts';
import { runCommand } from '../fixtures/command.ts';
import { tempDir } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const script = '<script>alert(1)</script>';
const dir = await makeCa(t);
const out = tempDir(t);
const ca = await startTestCa(t, { dir });
const root = readFileSync(join(dir, 'bundle.pem'), 'utf8');
const { token } = await ca.operator.createToken(web, 600_000);
const key = await newKey();
await ask(ca.address.port, root, { path: '/v1/svid', body: { token, csr: key.csr } });
await ask(ca.address.port, root, { path: '/v1/svid', body: { token: 'ab'.repeat(32), csr: key.csr } });
// A denial is signed at once; what comes after it waits for the next head.
await ca.operator.revoke(`${web}2`, script, { force: true });
await ca.operator.createToken(`${web}-unused`, 600_000);

const run = (...args: string[]) => runCommand(t, ['ca', ...args]);
const copy = join(out, 'ledger.jsonl');
const bundle = join(dir, 'bundle.pem');

t.test('the ledger of a running CA is verified, exported, and verified offline', async (t) => {
  t.match(await run('ledger', 'verify', '--dir', dir), {
    code: 0,
    stdout: /^verified: \d+ records, 1 to \d+; 2 signed heads\n$/,
    stderr: /1 record after record \d is not covered by a signature yet/,
  });
  t.match(await run('ledger', 'export', '--dir', dir, '--out', copy), { code: 0, stdout: '' });
  t.equal(statSync(copy).mode & 0o777, 0o600);
  t.match(await run('ledger', 'verify', copy, '--ca-bundle', bundle), { code: 0, stdout: /^verified: / });
  const printed = await run('ledger', 'export', '--dir', dir);
  t.equal(printed.stdout, readFileSync(copy, 'utf8'));
  t.match(await run('ledger', 'verify', copy), { code: 2, stderr: /give the CA's roots with --ca-bundle/ });
  t.match(await run('ledger', 'verify', join(out, 'none'), '--ca-bundle', bundle), { code: 2, stderr: /ENOENT/ });
});

t.test('an edited copy is reported with its first bad record, and the exit code is 1', async (t) => {
  const edited = join(out, 'edited.jsonl');
  writeFileSync(edited, readFileSync(copy, 'utf8').replace('"act\\":\\"token', '"act\\":\\"issue'));
  const found = await run('ledger', 'verify', edited, '--ca-bundle', bundle);
  t.equal(found.code, 1);
  t.match(found.stdout, /^record \d was changed: its hash does not match\nNOT verified: /);
  const json = await run('ledger', 'verify', edited, '--ca-bundle', bundle, '--json');
  t.match(JSON.parse(json.stdout), { faultCount: 1, faults: [{ kind: 'edited' }] });
});

t.test('--head takes a file or a sequence with its hash', async (t) => {
  const { hash, sequence } = (await ca.operator.records.heads(1, 1))[0]!;
  const file = join(out, 'ledger-head.json');
  writeFileSync(file, JSON.stringify({ sequence: sequence + 1000, hash, time: 'x' }));
  const verify = (head: string) => run('ledger', 'verify', copy, '--ca-bundle', bundle, '--head', head);
  t.match(await verify(`${sequence}:${hash}`), { code: 0 });
  t.match(await verify(file), { code: 1, stdout: /it ends with record \d+, but record 10\d\d was seen/ });
  t.match(await verify('x'), { code: 2, stderr: /--head x: it cannot be read/ });
  t.match(await verify(bundle), { code: 2 });
});

t.test('records are filtered by time, act and identity', async (t) => {
  const shown = await run('ledger', 'show', '--dir', dir, '--identity', web, '--json');
  t.match(
    JSON.parse(shown.stdout).map((one: { act: string }) => one.act),
    ['token', 'issue'],
  );
  t.match(await run('ledger', 'show', '--dir', dir, '--act', 'refuse'), {
    stdout: /refuse +127\.0\.0\.1 .*token_unknown/,
  });
  t.match(await run('ledger', 'show', '--dir', dir, '--limit', '1'), {
    stdout: /token +operator/,
    stderr: 'the last 1; --limit and --since show others\n',
  });
  t.match(await run('ledger', 'show', '--dir', dir, '--until', '1h'), { stdout: 'no records\n' });
  t.match(await run('ledger', 'show', '--dir', dir, '--since', '2099-01-01'), { stdout: 'no records\n' });
  t.match(await run('ledger', 'show', '--dir', dir, '--heads'), { stdout: /^RECORD +SIGNED +HASH/ });
  t.match(await run('ledger', 'show', '--dir', dir, '--act', 'x'), { code: 2, stderr: /there is no act 'x'/ });
  t.match(await run('ledger', 'show', '--dir', dir, '--since', 'x'), { code: 2, stderr: /'x' is not a time/ });
  t.match(await run('ledger', 'show', '--dir', dir, '--limit', '0'), { code: 2 });
});

t.test('CSV has one line for each record', async (t) => {
  const { stdout } = await run('ledger', 'export', '--dir', dir, '--csv');
  const { end } = await ca.operator.records.state();
  t.equal(stdout.split('\n').length, end.sequence + 2);
  t.match(
    stdout,
    /^sequence,time,act,caller,id,evidence,answer,details,hash\n1,20.*,start,self,,,started,"\{""issuer"/,
  );
  t.match(await run('ledger', 'export', '--dir', dir, '--csv', '--json'), { code: 2 });
});

t.test('identities are listed one by one', async (t) => {
  const { stdout } = await run('ls', '--dir', dir, '--by', 'service');
  t.match(stdout, new RegExp(`^SPIFFE ID +VALID +NEXT EXPIRY .*\n${web} +1 .* never\n`));
  const json = JSON.parse((await run('ls', '--dir', dir, '--by', 'service', '--expiring', '1m', '--json')).stdout);
  t.same(json, []);
  t.match(await run('ls', '--dir', dir, '--by', 'x'), { code: 2 });
});

t.test('the report lists unusual events as text, JSON and a page', async (t) => {
  t.match(await run('report', '--dir', dir), {
    code: 0,
    stdout:
      /^demo\.test at .*\n\nIdentities: 2\n[\s\S]*Never renewed: 1\n[\s\S]*Unused join tokens: 1\n[\s\S]*Denied and allowed: 1\n/,
  });
  const { stdout } = await run('report', '--dir', dir, '--json');
  t.match(JSON.parse(stdout), {
    trustDomain: 'demo.test',
    neverRenewed: { total: 1, listed: [{ id: web }] },
    unusedTokens: { total: 1, listed: [{ id: `${web}-unused` }] },
    weakKeys: { total: 0 },
    denials: { total: 1, listed: [{ act: 'revoke', by: 'operator', target: `${web}2`, note: script }] },
    expiredRenewals: { total: 0 },
    forks: { total: 0 },
  });
  const page = join(out, 'report.html');
  t.match(await run('report', '--dir', dir, '--html', page), { code: 0, stdout: '' });
  const html = readFileSync(page, 'utf8');
  t.notMatch(html, /<script/i);
  t.match(html, '&#60;script&#62;alert(1)&#60;/script&#62;');
  t.equal(statSync(page).mode & 0o777, 0o600);
});

t.test('the same commands work on the directory of the stopped CA', async (t) => {
  await ca.close();
  t.match(await run('ledger', 'verify', '--dir', dir), {
    code: 0,
    stdout: /; 3 signed heads\n$/,
    stderr: /^checked against[^\n]*\n$/,
  });
  t.match(await run('ledger', 'show', '--dir', dir, '--limit', '1'), { stdout: /stop +self/ });
  t.match(await run('report', '--dir', dir), { code: 0, stdout: /Identities: 2/ });
});
