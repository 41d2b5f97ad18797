// A gateway whose documents are older than they seem, or are closed, says so: in its pages, to `gateway status`, and in the
// statuses.

import { join } from 'node:path';
import t from 'tap';
import { type Any, type FakeApiServer, failure } from '../fixtures/api-server.ts';
import { runCommand } from '../fixtures/command.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { readState } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';
import { denyFor, object, optionsFor, routeIn, startFilled } from '../fixtures/watched.ts';

/** A gateway, and what it answers to a probe. */
async function startProbed(t: Owner, api: FakeApiServer) {
  const health = await freePort();
  const options = await optionsFor(t, api);
  const one = await startTestGateway(t, { ...options, yaml: `${options.yaml}health: ${health}\n` });
  return { one, ready: async (): Promise<string> => (await fetch(`http://127.0.0.1:${health}/healthz/ready`)).text() };
}

t.test('a kind that is not followed is named, with the time and the reason', async (t) => {
  const api = await startFilled(t);
  const { one, ready } = await startProbed(t, api);
  t.equal(await ready(), 'ready\n');
  let isForbidden = true;
  api.intercept = ({ path }, response) => {
    if (!isForbidden || !path.includes('securitypolicies')) return false;
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  api.endWatches();
  const says =
    /^ready\nSecurityPolicy is not followed since \d{4}-\d\d-\d\dT[\d:.]+Z, so all documents stay as they are: the API server forbids us to \w+ securitypolicies\n$/;
  await until(async () => says.test(await ready()) || undefined, 'the sentence');
  t.match((await readState(one.admin))['kubernetes'], {
    stale: [{ kind: 'SecurityPolicy', namespace: null, since: /Z$/, code: 'kubernetes_forbidden', holdsUp: /all/ }],
    closedNamespaces: {},
  });
  const shown = await runCommand(t, ['gateway', 'status', '--config', join(one.dir, 'gateway.yaml')]);
  t.match(shown, { code: 0, stderr: /SecurityPolicy is not followed since .*Z, so all documents stay as they are/ });
  isForbidden = false;
  await until(async () => (await ready()) === 'ready\n' || undefined, 'it is followed again');
});

t.test('the statuses of a closed namespace say so, and name the object', async (t) => {
  const api = await startFilled(t);
  const spec = {
    gatewayClassName: 'sallyport',
    listeners: [{ name: 'http', port: 81, protocol: 'HTTP' }],
  };
  for (const each of [routeIn('team', 't', 't.test'), denyFor('team', 't')]) api.put(each);
  api.put(object('Gateway', 'own', { spec }, undefined, 'team'));
  const theirs = { parentRef: { name: 'x' }, controllerName: 'example.test/c', conditions: [] };
  api.put({ ...api.get('HTTPRoute', 't', 'team'), status: { parents: [theirs] } });
  const { one, ready } = await startProbed(t, api);
  const statuses = (): Any[] => [
    api.get('HTTPRoute', 't', 'team').status?.parents?.[1],
    api.get('SecurityPolicy', 'deny-t', 'team').status?.ancestors?.[0],
    api.get('Gateway', 'own', 'team').status,
  ];
  const accepted = (): Any[] =>
    statuses().map((status) => status?.conditions?.find(({ type }: Any) => type === 'Accepted'));
  const become = (status: string) =>
    until(() => accepted().every((condition) => condition?.status === status) || undefined, `Accepted ${status}`);
  await become('True');
  const huge = { metadata: { name: 'huge', namespace: 'team', annotations: { a: 'x'.repeat(4_500_000) } } };
  api.put({ ...routeIn('team', 'huge', 'huge.test'), ...huge });
  await become('False');
  for (const condition of accepted())
    t.match(condition, {
      reason: 'NamespaceClosed',
      message: /no document of namespace team is in force: HTTPRoute team\/huge has more than 4194304 bytes/,
      observedGeneration: 1,
    });
  t.strictSame(api.get('HTTPRoute', 't', 'team').status.parents[0], theirs);
  t.match(api.get('HTTPRoute', 'r', 'shop').status.parents[0].conditions[0], { type: 'Accepted', status: 'True' });
  t.match(await readState(one.admin), { kubernetes: { closedNamespaces: { team: /huge has more/ } } });
  t.match(await ready(), /HTTPRoute team\/huge has more/);
  api.remove('HTTPRoute', 'huge', 'team');
  await become('True');
});
