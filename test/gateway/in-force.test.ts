// What is in force stays in force: of two documents that want the same, the one that is served already goes on,
// whatever the other is called. After a restart the document's own time decides, else its file's, then the name.

import { mkdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readStatus } from '../../sidecar/process/dry-run.ts';
import { sectionsOf } from '../../sidecar/routing/status.ts';
import { runCommand } from '../fixtures/command.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway, writeGateway } from '../fixtures/gateway.ts';
import { readState } from '../fixtures/mesh.ts';
import { documentOf, markedRule, planOf, routeOf, serviceOf, webGateway } from '../fixtures/plan.ts';
import { freePort, startSallyport, tempDir, until } from '../fixtures/process.ts';

const base = webGateway + serviceOf('a');
const all = '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }';
const accepted = 'Accepted=True Accepted';
const conflict = 'Accepted=False HostnameConflict';

t.test('a new GRPCRoute does not displace a catch-all HTTPRoute', async (t) => {
  const http = documentOf('HTTPRoute', 'site', all);
  const grpc = documentOf('GRPCRoute', 'api', all);
  const { plan } = planOf(base + http);
  const next = planOf(base + http + grpc, { last: plan });
  t.equal(next.said['HTTPRoute shop/site g']?.[0], accepted);
  t.equal(next.said['GRPCRoute shop/api g']?.[0], conflict);
  t.match(
    next.message('GRPCRoute shop/api g', 'Accepted'),
    /HTTPRoute shop\/site has the same host name and is in force/,
  );
  const again = planOf(base + grpc + http, { last: next.plan });
  t.equal(again.said['HTTPRoute shop/site g']?.[0], accepted, 'the route does not take over later either');
  const dated = documentOf('GRPCRoute', 'api', all, ', creationTimestamp: "2020-01-01T00:00:00Z"');
  t.equal(
    planOf(base + http + dated, { last: plan }).said['HTTPRoute shop/site g']?.[0],
    accepted,
    'an older one does not either',
  );
  t.equal(planOf(base + http + grpc).said['GRPCRoute shop/api g']?.[0], accepted, 'otherwise the name decides');
  const left = planOf(base + grpc, { last: next.plan });
  t.equal(left.said['GRPCRoute shop/api g']?.[0], accepted, 'a removed route blocks nothing');
});

t.test('a route is in force if that listener serves it', async (t) => {
  const two = documentOf(
    'Gateway',
    'g',
    '{ gatewayClassName: x, listeners: [{ name: one, port: 80, protocol: HTTP }, { name: two, port: 81, protocol: HTTP }] }',
  );
  const on = (kind: string, name: string, ...sections: string[]): string =>
    documentOf(
      kind,
      name,
      `{ parentRefs: [${sections.map((one) => `{ name: g, sectionName: ${one} }`).join()}], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }`,
    );
  const { plan } = planOf(two + serviceOf('a') + on('HTTPRoute', 'a', 'one') + on('GRPCRoute', 'b', 'two'));
  const { said } = planOf(two + serviceOf('a') + on('HTTPRoute', 'a', 'one', 'two') + on('GRPCRoute', 'b', 'two'), {
    last: plan,
  });
  t.equal(said['HTTPRoute shop/a g/one']?.[0], accepted);
  t.equal(said['HTTPRoute shop/a g/two']?.[0], conflict);
  t.equal(said['GRPCRoute shop/b g/two']?.[0], accepted);
});

t.test('a new Gateway takes no port from another', async (t) => {
  const of = (name: string, port = 80): string =>
    documentOf('Gateway', name, `{ gatewayClassName: x, listeners: [{ name: web, port: ${port}, protocol: HTTP }] }`);
  const { plan } = planOf(of('z') + of('y', 81));
  const { said } = planOf(of('a') + of('z') + of('b', 81) + of('y', 81), { last: plan });
  for (const [name, reason] of [
    ['z', accepted],
    ['y', accepted],
    ['a', 'Accepted=False PortUnavailable'],
    ['b', 'Accepted=False PortUnavailable'],
  ] as const)
    t.ok(said[`Gateway shop/${name} web`]?.includes(reason), `${name} ${reason}`);
});

t.test('a new policy takes no target from another', async (t) => {
  const of = (kind: string, name: string, spec: string): string =>
    `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ${kind}\nmetadata: { name: ${name}, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }], ${spec} }\n`;
  for (const [kind, spec] of [
    ['SecurityPolicy', 'authorization: { defaultAction: Deny }'],
    ['BackendTrafficPolicy', 'retry: {}'],
  ] as const) {
    const route = documentOf('HTTPRoute', 'r', all);
    const { plan } = planOf(base + route + of(kind, 'z', spec));
    const { list } = planOf(base + route + of(kind, 'a', spec) + of(kind, 'z', spec), { last: plan });
    const reasons = list.items
      .filter((one) => one.kind === kind)
      .map((one) => [one.metadata.name, sectionsOf(one)[0]?.conditions[0]?.reason]);
    t.strictSame(Object.fromEntries(reasons), { a: 'Conflicted', z: 'Accepted' }, kind);
  }
});

t.test('of equal matches, the one in force stays', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'all.yaml': webGateway, 'z.yaml': routeOf('z', markedRule('{}', 'z')) },
  });
  const mark = async (): Promise<string | undefined> =>
    (await ask(gateway.port('shop/g:80'), '/', { headers: { host: 'a' } })).echo.headers['x-mark'];
  t.equal(await mark(), 'z');
  await gateway.write(
    'a.yaml',
    routeOf('a', markedRule('{}', 'a')).replace('shop }', 'shop, creationTimestamp: "2020-01-01T00:00:00Z" }'),
  );
  t.equal(await mark(), 'z');
  await gateway.write('z.yaml', '# gone');
  t.equal(await mark(), 'a');
});

t.test("after a restart the document's creation time decides, then the time of its file, then its name", async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(
    join(dir, 'gateway.yaml'),
    'trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: documents/\n',
  );
  const write = (name: string, text: string, time: number): void => {
    writeFileSync(join(dir, 'documents', name), text);
    utimesSync(join(dir, 'documents', name), time, time);
  };
  const winner = async (): Promise<string | undefined> =>
    (await readStatus(join(dir, 'gateway.yaml'), Date.now())).list.items.find(
      (one) => /^(?:HTTP|GRPC)Route$/.test(one.kind) && sectionsOf(one)[0]?.conditions[0]?.status === 'True',
    )?.kind;
  write('base.yaml', base, 1_700_000_000);
  write('http.yaml', documentOf('HTTPRoute', 'z', all), 1_700_000_000);
  write('grpc.yaml', documentOf('GRPCRoute', 'a', all), 1_700_000_001);
  t.equal(await winner(), 'HTTPRoute', 'its file is older');
  write('grpc.yaml', documentOf('GRPCRoute', 'a', all), 1_600_000_000);
  t.equal(await winner(), 'GRPCRoute');
  write('http.yaml', documentOf('HTTPRoute', 'z', all, ', creationTimestamp: "2015-01-01T00:00:00Z"'), 1_700_000_000);
  t.equal(await winner(), 'HTTPRoute', 'the document has a creation time');
  write('http.yaml', documentOf('HTTPRoute', 'z', all), 1_600_000_000);
  t.equal(await winner(), 'GRPCRoute', 'the name decides');
});

t.test('`gateway status` shows what the running gateway has in force', async (t) => {
  const policy = (name: string, defaultAction: string, metadata = ''): string =>
    `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: ${name}, namespace: shop${metadata} }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }], authorization: { defaultAction: ${defaultAction}, rules: [] } }\n`;
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: 'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
    documents: { 'all.yaml': webGateway + documentOf('HTTPRoute', 'r', all), 'b.yaml': policy('strict', 'Deny') },
  });
  await gateway.write('c.yaml', policy('lax', 'Allow', ', creationTimestamp: "2001-01-01T00:00:00Z"'));
  const file = join(gateway.dir, 'gateway.yaml');
  const origin = `http://127.0.0.1:${gateway.admin}`;
  const status = (config: string, ...more: string[]): ReturnType<typeof runCommand> =>
    runCommand(t, ['gateway', 'status', '--config', config, ...more]);
  const strict = /SecurityPolicy +shop\/strict +HTTPRoute r +ok$/m;
  const lax = /SecurityPolicy +shop\/lax +HTTPRoute r +ok$/m;

  for (const config of [file, gateway.dir]) {
    const { code, stdout, stderr } = await status(config);
    t.equal(code, 0);
    t.match(stdout, strict);
    t.match(stdout, /SecurityPolicy +shop\/lax +HTTPRoute r +Accepted=False +Conflicted/);
    t.equal(stderr, `status of the running gateway at ${origin}\n`);
  }
  const offline = await status(file, '--offline');
  t.match(offline, { code: 0, stdout: lax, stderr: /^evaluated from the files$/m });
  t.match(JSON.parse((await status(file, '-o', 'json')).stdout), { kind: 'List' });

  t.test('the status is right while a change is refused', async (t) => {
    writeFileSync(join(gateway.dir, 'documents', 'd.yaml'), 'kind: [');
    const problem = async (): Promise<boolean> => (await readState(gateway.admin))['lastProblem'] !== null;
    await until(problem, 'the change to be refused');
    const { code, stdout, stderr } = await status(file);
    t.equal(code, 0);
    t.match(stdout, strict);
    t.match(stderr, /^warning: the last change was rejected: /m);
    t.match((await status(file, '--offline')).code, 2);
    await gateway.write('d.yaml', '# gone');
  });

  t.test('the status of another gateway is not used for this one', async (t) => {
    const other = join(gateway.dir, 'other.yaml');
    writeFileSync(other, readFileSync(file));
    const { stdout, stderr } = await status(other);
    t.match(stdout, lax);
    t.match(stderr, `the process at ${origin} serves ${file}: evaluated from the files\n`);
    writeFileSync(other, readFileSync(file, 'utf8').replace(/^admin: .*$/m, `admin: ${await freePort()}`));
    t.match(await status(other), {
      stdout: lax,
      stderr: /^no gateway responds at http:\/\/127\.0\.0\.1:\d+: evaluated from the files$/m,
    });
    writeFileSync(other, readFileSync(file, 'utf8').replace(/^admin: .*$/m, ''));
    t.match(await status(other), { stdout: lax, stderr: /^no 'admin' in .*other\.yaml: evaluated from the files$/m });
  });
});

t.test('the status comes over a unix socket as well', async (t) => {
  const { dir, file } = await writeGateway(t, { listeners: ['shop/g:80'], documents: webGateway });
  const socket = `unix:${join(dir, 'admin.sock')}`;
  writeFileSync(file, readFileSync(file, 'utf8').replace(/^admin: .*$/m, `admin: "${socket}"`));
  const gateway = startSallyport(t, ['gateway', '--config', file]);
  await gateway.waitFor(/"code":"ready"/);
  t.match(await runCommand(t, ['gateway', 'status', '--config', file]), {
    code: 0,
    stderr: `status of the running gateway at ${socket}\n`,
  });
});
