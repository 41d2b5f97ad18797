import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Registry } from 'prom-client';
import t from 'tap';
import { agentPages } from '../../cert-agent/agent/pages.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { startFakeCa } from '../fixtures/fake-ca.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority } from '../fixtures/pki.ts';
import { runSallyport, tempDir, until } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const url = new URL('http://localhost/');

t.test('pages and metrics follow the agent from waiting to serving', async (t) => {
  const clock = new ManualClock();
  const directory = tempDir(t);
  const ca = await startFakeCa(t, { authority, clock, away: true });
  const [caBundleFile, tokenFile] = [join(directory, 'root.pem'), join(directory, 'token')];
  writeFileSync(caBundleFile, authority.bundlePem);
  writeFileSync(tokenFile, 'join-me');
  const registry = new Registry();
  const agent = startAgent({
    caUrl: ca.url,
    caBundleFile,
    tokenFile,
    outDir: join(directory, 'out'),
    log: captureLog().log,
    clock,
    random: () => 0.5,
    registry,
  });
  t.teardown(() => agent.close());
  const pages = agentPages(agent, registry);
  const page = (path: string) => pages.find((one) => one.path === path)!.answer({ url, body: undefined });

  await until(() => agent.status().lastError, 'the first failure');
  t.match(page('/healthz/ready'), { status: 503, body: `waiting for the CA at ${ca.url}\n` });
  t.match(page('/status'), { body: { state: 'waiting', lastError: { code: 'ca_unreachable', time: /Z$/ } } });
  t.throws(() => page('/certs'), { code: 'not_ready', message: `waiting for the CA at ${ca.url}` });
  const before = await registry.metrics();
  t.match(before, /^identity_cert_expiration_timestamp_seconds 0$/m);
  t.match(before, /^sallyport_agent_failures_total\{step="svid",code="ca_unreachable"\} 1$/m);

  await ca.start();
  clock.advance(2000);
  await until(() => agent.identity.current(), 'the SVID');
  const svid = agent.identity.current()!.svid;
  t.match(page('/healthz/ready'), { body: 'ready\n' });
  t.match(page('/status'), {
    body: { state: 'serving', serial: svid.serial, notAfter: new Date(svid.notAfter).toISOString(), nextRenewal: /Z$/ },
  });
  t.match(page('/certs'), {
    body: { trustDomain: 'demo.test', chainPem: svid.chainPem, bundlePem: authority.bundlePem },
  });
  t.notMatch(JSON.stringify([page('/certs'), page('/status')]), /PRIVATE/, 'a key is never in a response');
  const after = await registry.metrics();
  t.match(after, new RegExp(`^identity_cert_expiration_timestamp_seconds ${svid.notAfter / 1000}$`, 'm'));
  t.match(after, /^identity_cert_refresh_count 1$/m);
  t.match(after, /^sallyport_agent_bundle_sequence 1$/m);
  t.match(page('/renew'), { status: 202 });
  await until(() => agent.status().renewals === 2, 'the renewal');
});

t.test('the command refuses a configuration that can never work, with exit code 2', async (t) => {
  const directory = tempDir(t);
  const given = ['agent', '--ca-bundle', 'root.pem', '--out-dir', join(directory, 'out')];
  const cases = [
    { args: given, says: "required option '--ca <url>' not specified" },
    { args: [...given, '--ca', 'http://ca'], says: "'http://ca' is not the URL of a CA" },
    {
      args: [...given, '--ca', 'https://ca', '--ttl', '10'],
      says: "--ttl '10' is not a valid life of an SVID [usage]",
    },
    { args: [...given, '--ca', 'https://ca', '--admin', 'a:b:c'], says: "'a:b:c' is not an address" },
  ];
  await Promise.all(
    cases.map(async ({ args, says }) => {
      const { code, stderr } = await runSallyport(t, args);
      t.equal(code, 2, stderr);
      t.ok(stderr.includes(says), stderr);
    }),
  );
});
