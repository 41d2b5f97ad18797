// The demo's tour, run against the containers of compose.yaml. Starts nothing and stops nothing: run it after `up`.
// Exits with 0 only if every step did what it should.
//
//   node tour.ts                           with docker compose, or podman-compose if there is no docker
//   COMPOSE='podman-compose' node tour.ts

import { copyFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { say, sayOutcome } from '../two-services/demo/print.ts';
import { answers, denied, type Finding, type Step } from '../two-services/demo/step.ts';
import { ask, direct, execIn, load, metricOf, outcomeText, sallyportOf, serialOf, until } from './inside.ts';

const reports = 'spiffe://demo.test/ns/shop/sa/reports';
const trust = '/run/sallyport/trust';
const extraPolicy = fileURLToPath(new URL('../two-services/policies/reports-may-read.yaml', import.meta.url));
const lantern = 'a lantern';

const steps: readonly Step[] = [
  answers('the page of web, whose app calls orders', 200, lantern, () => ask('web', { port: 8082, path: '/' })),
  answers('allowed: GET, by Host', 200, lantern, () => ask('web', { port: 15_001, host: 'orders' })),
  answers('allowed: GET, as with http_proxy', 200, lantern, () =>
    ask('web', { port: 15_001, path: 'http://orders/orders', host: 'orders' }),
  ),
  answers('allowed: GET, by the port of the upstream', 200, lantern, () =>
    ask('web', { port: 15_002, host: 'any.example' }),
  ),
  answers('the same with a forbidden method: DELETE', 403, denied, () =>
    ask('web', { port: 15_001, host: 'orders', method: 'DELETE' }),
  ),
  answers('reports: a valid certificate, no rule', 403, denied, () => direct({ identity: '/tmp/reports', trust })),
  cutOff('no certificate', 'svid_missing', { trust }),
  cutOff("web's name, certified by another CA", 'svid_untrusted', { identity: '/tmp/other-web', trust }),
  fails('around the sidecar: the app itself', 'ECONNREFUSED', { address: 'orders', port: 8081 }),
  fails('around the sidecar: plain HTTP to its port', 'ECONNRESET', { address: 'orders', port: 15_006 }),
  { name: 'a policy is added: reports may read', expected: '403, then 200', run: policyAdded },
  { name: 'reports is revoked', expected: '200, then svid_denied', run: revoked },
  { name: 'both certificates rotate under load', expected: '0 failed', run: rotated },
];

process.exitCode = (await makeTour()) === 0 ? 0 : 1;

async function makeTour(): Promise<number> {
  await until('both sidecars to be ready', async () =>
    (await Promise.all(['web', 'orders'].map((name) => ask(name, { port: 15_021, path: '/healthz/ready' })))).every(
      ({ status }) => status === 200,
    ),
  );
  await giveStrangerCertificates();
  let failed = 0;
  try {
    for (const { name, expected, run } of steps) {
      const [got, ok] = await run().catch((error: Error) => [error.message, false] as const);
      sayOutcome({ name, expected, got, ok });
      if (!ok) failed++;
    }
  } finally {
    rmSync(extraPolicy, { force: true });
    await sallyportOf('ca', 'ca', 'allow', reports);
  }
  say(failed === 0 ? '\nEvery step did what it should.' : `\n${failed} of ${steps.length} steps FAILED`);
  return failed;
}

/** A certificate as `reports` from our CA, and one as `web` from a CA that the stranger makes. */
async function giveStrangerCertificates(): Promise<void> {
  rmSync(extraPolicy, { force: true });
  await sallyportOf('ca', 'ca', 'allow', reports);
  const token = await sallyportOf('ca', 'ca', 'token', 'create', '--spiffe-id', reports);
  const agent = (ca: string, bundle: string, name: string): string =>
    `rm -rf ${name}; sallyport agent --ca ${ca} --ca-bundle ${bundle} --token-file ${name}.token --out-dir ${name} > ${name}.log & pid=$!
     until [ -e ${name}/svid.pem ]; do kill -0 $pid; sleep 0.1; done; kill $pid; wait $pid`;
  await execIn(
    'stranger',
    `cd /tmp; umask 077; cat > reports.token; ${agent('https://ca:15012', `${trust}/bundle.pem`, 'reports')}
     rm -rf other; sallyport ca init --trust-domain demo.test --dir other
     sallyport ca serve --dir other --listen 127.0.0.1:15012 > other.log & ca=$!
     until sallyport ca token create --dir other --spiffe-id spiffe://demo.test/ns/shop/sa/web > other-web.token; do kill -0 $ca; sleep 0.2; done
     ${agent('https://127.0.0.1:15012', 'other/bundle.pem', 'other-web')}
     kill $ca; wait $ca`,
    token,
  );
}

/** A step whose caller gets no byte. The metrics of orders' sidecar show the reason; the caller does not see it. */
function cutOff(name: string, code: string, job: { readonly identity?: string; readonly trust: string }): Step {
  return {
    name,
    expected: `no answer (${code})`,
    async run() {
      const before = await metricOf(code);
      const got = await outcomeText(direct(job));
      const counted = (await metricOf(code)) > before;
      return [`${got}${counted ? ` (${code})` : ''}`, counted && !/^\d/.test(got)];
    },
  };
}

/** A step whose caller gets no connection, or no response on it. */
function fails(name: string, code: string, question: { readonly address: string; readonly port: number }): Step {
  return {
    name,
    expected: code,
    async run() {
      const got = await outcomeText(ask('stranger', question));
      return [got, got === code];
    },
  };
}

async function policyAdded(): Promise<Finding> {
  const { status } = await direct({ identity: '/tmp/reports', trust });
  copyFileSync(new URL('../two-services/reports-may-read.yaml', import.meta.url), extraPolicy);
  await until('the new policy', async () => (await direct({ identity: '/tmp/reports', trust })).status === 200);
  return [`${status}, then 200`, status === 403];
}

async function revoked(): Promise<Finding> {
  const { status } = await direct({ identity: '/tmp/reports', trust });
  const before = await metricOf('svid_denied');
  await sallyportOf('ca', 'ca', 'revoke', reports, '--wait', '25s', '--reason', 'part of the tour');
  await until('reports to be cut off', async () =>
    direct({ identity: '/tmp/reports', trust }).then(
      () => false,
      () => true,
    ),
  );
  const ok = status === 200 && (await metricOf('svid_denied')) > before;
  return [`${status}, then ${ok ? 'svid_denied' : 'cut for another reason'}`, ok];
}

async function rotated(): Promise<Finding> {
  const old = await Promise.all(['web', 'orders'].map(serialOf));
  const running = load({ port: 15_001, seconds: 5 });
  await Promise.all(['web', 'orders'].map((name) => execIn(`${name}-sidecar`, 'kill -HUP 1')));
  await until('new certificates on both sides', async () =>
    (await Promise.all(['web', 'orders'].map(serialOf))).every((serial, i) => serial !== old[i]),
  );
  const { requests, failures } = await running;
  const why = failures[0] === undefined ? '' : ` (${failures[0]})`;
  return [`${failures.length} failed of ${requests}${why}`, failures.length === 0 && requests > 0];
}
