// One of several gateways writes statuses, and another when that one ends or falls silent.

import t from 'tap';
import { ApiClient } from '../../sidecar/cluster/client.ts';
import { Lease } from '../../sidecar/cluster/lease.ts';
import { type FakeApiServer, failure, startApiServer } from '../fixtures/api-server.ts';
import { logTo } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';

/** A machine that is busy may stop for two seconds. */
const times = { durationMs: 4000, renewMs: 100, rolesMs: 300 };

function lease(t: Owner, api: FakeApiServer, lines: Record<string, unknown>[] = [], of = times): Lease {
  const client = new ApiClient(api, { answerMs: 30_000, silenceMs: 30_000 });
  const one = new Lease({ client, namespace: 'edge', name: 'sallyport-gateway', log: logTo(lines), times: of });
  t.teardown(async () => {
    await one.close();
    await client.close();
  });
  return one;
}

t.test('one holds it, and gives it to another when it ends', async (t) => {
  const api = await startApiServer(t);
  const first = lease(t, api);
  await until(() => first.isHeld() || undefined, 'the first');
  const second = lease(t, api);
  const renewals = (): number => api.calls.filter(({ method }) => method === 'PUT').length;
  const before = renewals();
  const end = performance.now() + 1.2 * times.durationMs;
  await until(() => (performance.now() > end && renewals() > before + 2) || undefined, 'longer than it lasts');
  t.ok(first.isHeld());
  t.notOk(second.isHeld());
  await first.close();
  t.notOk(first.isHeld());
  await until(() => second.isHeld() || undefined, 'the second');
  t.match(api.get('Lease', 'sallyport-gateway', 'edge').spec, { leaseTransitions: 1, leaseDurationSeconds: 4 });
});

t.test('the one that cannot renew it stops before another begins', async (t) => {
  const api = await startApiServer(t);
  const lines: Record<string, unknown>[] = [];
  const first = lease(t, api, lines);
  await until(() => first.isHeld() || undefined, 'the first');
  const holder = api.get('Lease', 'sallyport-gateway', 'edge').spec.holderIdentity;
  const second = lease(t, api);
  api.intercept = ({ method, body }, response) => {
    if (method !== 'PUT' || body.spec.holderIdentity !== holder) return false;
    failure(response, 500, 'InternalError', 'no');
    return true;
  };
  let both = false;
  await until(() => {
    both ||= first.isHeld() && second.isHeld();
    return second.isHeld() || undefined;
  }, 'the second');
  t.notOk(both);
  t.match(JSON.stringify(lines), /answered 500 to update Lease edge\/sallyport-gateway/);
});

t.test('two that begin at once', async (t) => {
  const api = await startApiServer(t);
  const all = [lease(t, api), lease(t, api), lease(t, api)];
  await until(() => all.some((one) => one.isHeld()) || undefined, 'one of them');
  t.equal(all.filter((one) => one.isHeld()).length, 1);
});

t.test('without the right to it, no gateway leads, and the error names it', async (t) => {
  const api = await startApiServer(t);
  const lines: Record<string, unknown>[] = [];
  api.intercept = (_call, response) => {
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  const one = lease(t, api, lines);
  await until(() => lines.find(({ code }) => code === 'kubernetes_forbidden'), 'the error');
  t.match(JSON.stringify(lines), /forbids us to get Lease edge\/sallyport-gateway/);
  t.notOk(one.isHeld());
});

t.test('roles that come one after the other are no error, and those that do not come are one', async (t) => {
  const api = await startApiServer(t);
  const lines: Record<string, unknown>[] = [];
  const forbidden = new Set(['GET', 'POST']);
  let refused = 0;
  api.intercept = ({ method }, response) => {
    if (!forbidden.has(method)) return false;
    refused++;
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  const errors = (): unknown[] => lines.filter(({ code }) => code === 'kubernetes_forbidden');
  const late = lease(t, api, lines, { ...times, rolesMs: 60_000 });
  await until(() => refused > 2 || undefined, 'some tries');
  forbidden.delete('GET');
  await until(() => refused > 5 || undefined, 'some more');
  forbidden.clear();
  await until(() => late.isHeld() || undefined, 'it is held');
  t.strictSame(errors(), [], 'it passed');
  await late.close();
  forbidden.add('GET');
  const one = lease(t, api, lines, { ...times, rolesMs: 0 });
  await until(() => errors().length > 0 || undefined, 'the error');
  forbidden.delete('GET');
  forbidden.add('PUT');
  const before = refused;
  await until(() => refused > before + 4 || undefined, 'the other verb');
  t.equal(errors().length, 1, 'one line');
  t.notOk(one.isHeld());
});
