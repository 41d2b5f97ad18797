// crl.pem: fetched from a real CA, verified before it is written, and used by nginx.

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { CrlRefresh } from '../../cert-agent/agent/crl.ts';
import { Keep } from '../../cert-agent/agent/keep.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { CaClient, CrlNews } from '../../cert-agent/fetch.ts';
import { formatCrlPem, parseCrls, signCrl } from '../../cert-agent/identity/crl.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { writeGeneration } from '../../cert-agent/identity/generation.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { ask, newKey, startTestCa, svidOf, type TestCa } from '../fixtures/ca.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createSvid } from '../fixtures/pki.ts';
import { endWithUs, freePort, tempDir, until } from '../fixtures/process.ts';
import { haveCommand } from '../fixtures/tools.ts';

const id = (name: string): string => `spiffe://demo.test/ns/shop/sa/${name}`;

async function startBoth(t: Test): Promise<{ ca: TestCa; out: string; crlFile: string }> {
  const ca = await startTestCa(t);
  const directory = tempDir(t);
  const tokenFile = join(directory, 'token');
  writeFileSync(tokenFile, (await ca.operator.createToken(id('nginx'), 60_000)).token, { mode: 0o600 });
  const out = join(directory, 'out');
  const agent = startAgent({
    caUrl: `https://127.0.0.1:${ca.address.port}`,
    ...{ caBundleFile: join(ca.dir, 'bundle.pem'), tokenFile, outDir: out, log: captureLog().log, random: () => 0 },
  });
  t.teardown(() => agent.close());
  const crlFile = join(out, 'crl.pem');
  await until(() => existsSync(crlFile), 'crl.pem');
  return { ca, out, crlFile };
}

async function enrolled(ca: TestCa, name: string) {
  const key = await newKey();
  const { token } = await ca.operator.createToken(id(name), 60_000);
  const root = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const answer = await ask(ca.address.port, root, { path: '/v1/svid', body: { csr: key.csr, token } });
  return { serial: String(answer.json.serial), svid: svidOf(answer, key) };
}

const serialsIn = (file: string): string[] => parseCrls(readFileSync(file), file).flatMap((one) => [...one.serials]);

t.test('the agent writes the CRL, and writes it again when a certificate is revoked', async (t) => {
  const { ca, crlFile } = await startBoth(t);
  t.equal(parseCrls(readFileSync(crlFile), crlFile).length, 2, 'the CRLs of the intermediate and the root');
  const { serial } = await enrolled(ca, 'web');
  await ca.operator.revoke(serial, 'keyCompromise');
  await until(() => serialsIn(crlFile).includes(serial), 'the revoked serial');
});

t.test("when the issuer rotates, its CRL changes and the old issuer's CRL stays", async (t) => {
  const { ca, crlFile } = await startBoth(t);
  const { serial: old } = await enrolled(ca, 'old');
  await ca.operator.rotate({ kind: 'issuer', step: 'activate' });
  const { serial: fresh } = await enrolled(ca, 'fresh');
  await ca.operator.revoke(old, 'x');
  await ca.operator.revoke(fresh, 'y');
  await until(() => serialsIn(crlFile).includes(fresh) && serialsIn(crlFile).includes(old), 'both serials');
  const lists = parseCrls(readFileSync(crlFile), crlFile);
  t.same(
    lists.map(({ serials }) => [...serials]),
    [[fresh], [old], []],
    'the CRLs of the current issuer, the old one and the root',
  );
  t.notMatch(
    readFileSync(crlFile, 'utf8'),
    /CERTIFICATE/,
    'the file contains no certificate that other software could trust',
  );
});

t.test('nginx with the CRL refuses a revoked client, and only that client', async (t) => {
  if (!haveCommand('nginx')) return t.comment('nginx is not installed: skipped');
  const { ca, out, crlFile } = await startBoth(t);
  const [good, bad] = [await enrolled(ca, 'good'), await enrolled(ca, 'bad')];
  await ca.operator.revoke(bad.serial, 'keyCompromise');
  await until(() => serialsIn(crlFile).includes(bad.serial), 'the revoked serial');
  const place = tempDir(t);
  const port = await freePort();
  for (const name of ['client', 'proxy', 'fastcgi', 'uwsgi', 'scgi']) mkdirSync(join(place, name));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${place}/${name.split('_')[0]};`,
  );
  writeFileSync(
    join(place, 'nginx.conf'),
    `daemon off; master_process off; pid ${place}/pid; error_log stderr info; events {}
     http { access_log off; ${temporary.join(' ')}
       server { listen 127.0.0.1:${port} ssl; ssl_certificate ${out}/svid.pem; ssl_certificate_key ${out}/svid.key;
         ssl_client_certificate ${out}/bundle.pem; ssl_crl ${crlFile}; ssl_verify_client on; ssl_verify_depth 2;
         location / { return 200 "$ssl_client_verify"; } } }`,
  );
  const child = spawn('nginx', ['-p', place, '-c', join(place, 'nginx.conf')], { stdio: ['ignore', 'ignore', 'pipe'] });
  endWithUs(child);
  t.teardown(() => child.kill());
  let said = '';
  child.stderr.on('data', (part) => (said += part));
  const ask = (svid: { cert: string; key: string }): Promise<string> =>
    new Promise((resolve) => {
      const call = request(
        { host: '127.0.0.1', port, ...svid, rejectUnauthorized: false, agent: false },
        (response) => {
          let text = '';
          response.on('data', (part) => (text += part)).once('end', () => resolve(`${response.statusCode} ${text}`));
        },
      );
      call.once('error', (error) => resolve(String(error)));
      call.end();
    });
  await until(async () => !(await ask(good.svid)).includes('ECONNREFUSED'), 'nginx', 10_000);
  t.equal(await ask(good.svid), '200 SUCCESS');
  t.match(await ask(bad.svid), /^400 /);
  await until(() => said.includes('certificate revoked'), "nginx's log names the reason");
});

const authority = await createAuthority('demo.test');
const other = await createAuthority('demo.test');
const day = 86_400_000;

async function listOf(number: number, from = authority, nextUpdate = Date.now() + day): Promise<string> {
  const entries = [{ serial: `41${String(number).padStart(4, '0')}`, at: Date.now(), reason: 'unspecified' } as const];
  const spec = { number, thisUpdate: Date.now() - 1000, nextUpdate, entries };
  return formatCrlPem(await signCrl(spec, { key: from.issuerKey, certificate: from.issuer }));
}

/** An agent's part that fetches CRLs, with a CA that answers `news`. */
async function refreshOf(t: Test, news: () => CrlNews) {
  const clock = new ManualClock();
  const directory = tempDir(t);
  const outDir = join(directory, 'out');
  const svid = await createSvid(authority, id('web'));
  writeGeneration(outDir, { svid, bundles: authority.bundles, denied: emptyDenyList });
  const caBundleFile = join(directory, 'root.pem');
  writeFileSync(caBundleFile, authority.bundlePem);
  const captured = captureLog();
  const keepOptions = { outDir, caBundleFile, log: captured.log, clock };
  const etags: (string | undefined)[] = [];
  const client = {
    async fetchCrl(_trust: unknown, etag: string | undefined): Promise<CrlNews> {
      etags.push(etag);
      return news();
    },
  } as unknown as CaClient;
  const make = (keep: Keep) => new CrlRefresh({ client, keep, log: captured.log, clock, random: () => 0 });
  const keep = new Keep(keepOptions);
  let refresh = make(keep);
  return {
    ...{ clock, keep, etags, svid, captured, file: join(outDir, 'crl.pem') },
    /** Lets time pass, and ticks. */
    async tick(ms = 0) {
      clock.advance(ms);
      refresh.tick();
      await new Promise((resolve) => setImmediate(resolve));
      await new Promise((resolve) => setImmediate(resolve));
    },
    restart() {
      const again = new Keep(keepOptions);
      refresh = make(again);
      return again;
    },
  };
}

t.test('the agent writes only a CRL that a CA of the bundle has signed', async (t) => {
  const good = await listOf(5);
  let answer: CrlNews = 'absent';
  const world = await refreshOf(t, () => answer);
  const written = (): string | undefined => (existsSync(world.file) ? readFileSync(world.file, 'utf8') : undefined);
  await world.tick();
  t.equal(written(), undefined, 'an older CA has no CRL');
  t.same(
    world.captured.lines.filter((one) => one.code?.startsWith('crl')),
    [],
    'that is not a failure',
  );
  for (const [name, text] of [
    ['another issuer', await listOf(6, other)],
    ['a CRL that has expired', await listOf(6, authority, Date.now() - 1000)],
    ['garbage', 'garbage'],
    ['nothing', ''],
    ['cut', good.slice(0, -40)],
    ['huge', `-----BEGIN X509 CRL-----\n${'A'.repeat(30_000_000)}\n-----END X509 CRL-----\n`],
  ] as const) {
    answer = { text, etag: '"bad"' };
    await world.tick(600_001);
    t.equal(written(), undefined, name);
  }
  t.equal(world.etags.at(-1), undefined, 'a refused response has no validator');
  answer = { text: (await listOf(6, other)) + good, etag: '"4"' };
  await world.tick(600_001);
  t.equal(written(), good, 'the CRL of another CA is left out');
  answer = { text: await listOf(4), etag: '"4"' };
  await world.tick(600_001);
  t.equal(written(), good, 'an older list does not undo a revocation');
  t.equal(world.etags.at(-1), '"4"');
  answer = { text: await listOf(7), etag: '"7"' };
  await world.tick(600_001);
  t.equal(written(), answer.text);
});

t.test('the agent fetches the CRL when the deny list changes, and keeps it over renewals and restarts', async (t) => {
  let answer: CrlNews = { text: await listOf(5), etag: '"5"' };
  const world = await refreshOf(t, () => answer);
  await world.tick();
  await world.tick(10_000);
  t.equal(world.etags.length, 1, 'no new request follows soon');
  answer = 'unchanged';
  const denied = { ...emptyDenyList, sequence: 1 };
  world.keep.commit(world.svid, { bundle: authority.bundle, denied });
  await world.tick();
  t.same(world.etags, [undefined, '"5"']);
  t.match(readFileSync(world.file, 'utf8'), 'X509 CRL', 'the CRL is still there');
  writeFileSync(world.file, 'damage');
  t.equal(world.keep.mend(), true);
  t.match(readFileSync(world.file, 'utf8'), 'X509 CRL', 'mended');
  const text = readFileSync(world.file, 'utf8');
  t.equal(world.restart().crl(), text);
  answer = { text: await listOf(3), etag: '"3"' };
  await world.tick();
  t.equal(readFileSync(world.file, 'utf8'), text, 'an older CRL does not replace it after a restart');
});

t.test('the agent retries failures, soon at first and then less often', async (t) => {
  const world = await refreshOf(t, () => {
    throw new SallyportError('ca_unreachable', 'no CA');
  });
  await world.tick();
  for (let seconds = 0; seconds < 3600; seconds++) await world.tick(1000);
  t.ok(world.etags.length > 12 && world.etags.length < 30, `${world.etags.length} requests in an hour`);
  const said = world.captured.lines.filter((one) => one.code === 'ca_unreachable' && one.level !== 'debug');
  t.equal(said.length, 1);
});
