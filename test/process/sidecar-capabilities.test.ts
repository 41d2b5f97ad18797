// Fields of sidecar.yaml that capabilities read, with made-up capabilities on real sockets: what they refuse and add,
// what they keep out of app and log, how a change reaches requests in flight, and what a sidecar refuses of them. A
// sidecar without such a field loads nothing of the edge.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { withoutSecrets } from '../../sidecar/config/shown.ts';
import { parseSettings, readSettings } from '../../sidecar/config/sidecar-settings.ts';
import type { AnyCapability } from '../../sidecar/edge/capability.ts';
import { schemasOf } from '../../sidecar/edge/schemas.ts';
import { checkSidecarEdge } from '../../sidecar/process/sidecar-edge.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { madeUp, noteService, wordGuard } from '../fixtures/made-up.ts';
import { allowAll, readState, startMesh, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { serviceOf, webGateway, webRoute } from '../fixtures/plan.ts';
import { freePort, type Owner, startProcess, tempDir, until } from '../fixtures/process.ts';
import { askTls, startTlsApp } from '../fixtures/tls-app.ts';

const guarded = 'wordGuard: { word: sesame }\nnote: { text: hello }\n';
const host = { host: 'orders' };

t.test("an inbound port refuses, adds a header, and keeps the sidecar's own fields from app and log", async (t) => {
  const app = await startEcho(t, 'a');
  const mesh = await startMesh(t, { app, capabilities: madeUp, ordersYaml: guarded });
  const refused = await ask(mesh.outPort, '/', { headers: host });
  t.match(refused, { status: 403, text: 'say the word', headers: { 'x-note': 'hello, by sidecar.yaml' } });
  const passed = await ask(mesh.outPort, '/p?word=secret&q=1', {
    headers: { ...host, 'x-word': 'sesame', 'x-word-said': 'me' },
  });
  t.match(passed, { status: 200, headers: { 'x-note': 'hello, by sidecar.yaml' } });
  t.equal(passed.echo.headers['x-word-said'], undefined, 'no caller can set fields that only we may set');
  t.equal(passed.echo.path, '/p?word=secret&q=1');
  const [first, second, third] = await ask(mesh.outPort, '/sesame?all=secret', { headers: host }).then(() =>
    mesh.records('orders', 3),
  );
  t.match(first, { response_code: 403, code: 'csrf_origin_mismatch', decision: 'deny' });
  t.match(second, {
    response_code: 200,
    path: '/p?q=1',
    decision: 'allow',
    policy: 'ns[shop]-policy[allow-all]-rule[0]',
  });
  t.equal(third!['path'], '/sesame');
  const shown = (await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/config`)).text()) as string;
  t.match(shown, /"capabilities":\s*\[\s*"wordGuard",\s*"note"\s*\]/);
  t.notMatch(shown, /sesame/);
});

t.test('an outbound port does the same; mesh policy still decides', async (t) => {
  const app = await startEcho(t, 'a');
  const deny = allowAll.replace('action: ALLOW', 'action: DENY');
  const mesh = await startMesh(t, { app, capabilities: madeUp, webYaml: guarded, policy: deny });
  t.match(await ask(mesh.outPort, '/', { headers: host }), { status: 403, text: 'say the word' });
  t.match(await ask(mesh.outPort, '/', { headers: { ...host, 'x-word': 'sesame' } }), {
    ...{ status: 403, text: 'RBAC: access denied', headers: { 'x-note': 'hello, by sidecar.yaml' } },
  });
  t.equal((await mesh.records('orders', 1)).length, 1, 'the first request has not left');
});

/** An app that answers nothing until it is told to. */
async function startSlowApp(t: Owner) {
  const waiting: ServerResponse[] = [];
  const server = createServer((_asked: IncomingMessage, answer) => void waiting.push(answer));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, waiting };
}

t.test('a change reaches requests in flight; one that changes nothing keeps the compiled state', async (t) => {
  const { port: app, waiting } = await startSlowApp(t);
  let compiled = 0;
  const counted: AnyCapability = {
    ...wordGuard,
    compile(...args: Parameters<typeof wordGuard.compile>) {
      // A dry one checks each change before it is in force.
      if (args[1].shared !== undefined) compiled++;
      return wordGuard.compile(...args);
    },
  };
  const mesh = await startMesh(t, { app, capabilities: [counted, noteService], ordersYaml: guarded });
  const file = join(mesh.dir, 'orders.yaml');
  const edit = async (change: (text: string) => string): Promise<void> => {
    const { generation } = (await readState(mesh.inAdmin)) as { generation: number };
    writeFileSync(file, change(readFileSync(file, 'utf8')));
    await until(async () => ((await readState(mesh.inAdmin))['generation'] as number) > generation, 'it');
  };
  const begun = ask(mesh.outPort, '/', { headers: { ...host, 'x-word': 'sesame' } });
  await until(() => waiting.length === 1, 'the request at the app');
  const before = compiled;
  await mesh.setPolicy(`${allowAll}# the same\n`);
  t.equal(compiled, before, 'the plans are the same, and so are the hooks');
  await edit((text) => text.replace('word: sesame', 'word: other'));
  t.match(await begun, { status: 403 }, 'the earlier approval does not hold any more');
  const [record] = await mesh.records('orders', 1);
  t.match(record, { code: 'policy_denied' });
  await edit((text) => text.replace(/wordGuard.*\n/, ''));
  const free = ask(mesh.outPort, '/', { headers: host });
  await until(() => waiting.length === 2, 'the request at the app');
  waiting[1]!.end('served');
  t.match(await free, { status: 200, text: 'served' });
  await edit((text) => text.replace(/note.*\n/, ''));
  const plain = ask(mesh.outPort, '/', { headers: host });
  await until(() => waiting.length === 3, 'the request at the app');
  waiting[2]!.end('plain');
  t.equal((await plain).headers['x-note'], undefined, 'no request is left');
});

t.test('a change that a sidecar cannot serve leaves the last settings in force', async (t) => {
  const app = await startEcho(t, 'a');
  const mesh = await startMesh(t, { app, capabilities: madeUp, ordersYaml: guarded });
  const file = join(mesh.dir, 'orders.yaml');
  writeFileSync(file, readFileSync(file, 'utf8').replace('{ word: sesame }', '{ word: sesame, secret: s }'));
  await until(() => mesh.lines.some(({ code }) => code === 'config_invalid'), 'the refusal');
  t.match(mesh.lines.find(({ code }) => code === 'config_invalid')!['msg'], /'wordGuard': it needs a Secret/);
  t.match(await readState(mesh.inAdmin), { lastProblem: { message: /it needs a Secret/ } });
  t.equal((await ask(mesh.outPort, '/', { headers: { ...host, 'x-word': 'sesame' } })).status, 200);
});

t.test('a byte stream does not bypass a guard', async (t) => {
  const app = await startTlsApp(t);
  const permissive =
    '---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: shop, namespace: shop }\nspec: { mtls: { mode: PERMISSIVE } }\n';
  const options = { app: app.port, policy: `${allowAll}${permissive}`, capabilities: madeUp };
  const mesh = await startMesh(t, { ...options, ordersYaml: guarded });
  const get = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';
  t.notMatch(await askTls(mesh.inPort, get, { ca: app.authority }), /HTTP/, "inside the app's own TLS");
  const [record] = await mesh.records('orders', 1);
  t.match(record, { code: 'policy_denied', decision: 'deny' });
  const noted = await startMesh(t, { ...options, ordersYaml: 'note: { text: hello }\n' });
  t.match(await askTls(noted.inPort, get, { ca: app.authority }), /tls$/, 'a service refuses nothing');
});

const yaml = (more: string, ports = 'inbound: [{ port: 15006, app: "127.0.0.1:8080" }]'): string =>
  `trustDomain: demo.test\nworkload: { serviceAccount: a }\nidentity: { files: { svid: x, key: x, bundle: x } }\n${ports}\n${more}`;

t.test('which capabilities a sidecar refuses', async (t) => {
  const check = async (text: string, table: readonly AnyCapability[] = madeUp): Promise<void> =>
    checkSidecarEdge(await readSettings(text, 'sidecar.yaml', table), table);
  await check(yaml(guarded));
  const refused = (of: Promise<void>, message: RegExp) => t.rejects(of, { code: 'config_invalid', message });
  await refused(check(yaml('wordGuard: { wrod: x }')), /wordGuard/);
  await refused(check(yaml('wordGuard: { word: x, secret: s }')), /^sidecar\.yaml: 'wordGuard': it needs a Secret/);
  await refused(check(yaml('wordGuard: { word: x, backend: { name: b } }')), /it needs a backend, which a sidecar/);
  await refused(
    check(yaml(guarded, 'inbound: [{ port: 1, app: "127.0.0.1:2", protocol: tcp }]')),
    /port for 2 is for TCP/,
  );
  const out =
    'outbound: [{ port: 1, protocol: tcp, upstream: o }]\nupstreams: { o: { endpoints: ["127.0.0.1:2"], identity: spiffe://demo.test/o } }';
  await refused(check(yaml(guarded, out)), /the outbound port 1 is for TCP, but word-guard evaluates requests only/);
  await check(yaml('note: { text: x }', out));
  const compiling = (compile: AnyCapability['compile'], of: AnyCapability = noteService): readonly AnyCapability[] => [
    { ...of, compile } as AnyCapability,
  ];
  const note = yaml('note: { text: x }');
  await refused(
    check(
      note,
      compiling((_plans, site) => void site.destination({ group: '', kind: 'Service', name: 'b' }, 'note')),
    ),
    /'note': it needs a backend/,
  );
  await refused(
    check(
      note,
      compiling((_plans, site) => void site.route({})),
    ),
    /'note': it needs a backend/,
  );
  await refused(
    check(
      note,
      compiling(() => ({ answers: true })),
    ),
    /'note': it needs 'answers'/,
  );
  await refused(
    check(
      yaml('wordGuard: { word: x }'),
      compiling(() => undefined, wordGuard),
    ),
    /its capability has no guard/,
  );
  t.throws(() => checkSidecarEdge({ ...parseSettings(yaml(''), 'x.yaml'), capabilities: { gone: {} } }, madeUp), {
    message: /'gone': no capability here evaluates it/,
  });
});

t.test('settings have no keys for capabilities that are not set', async (t) => {
  const fields = await schemasOf('sidecar.yaml', madeUp);
  t.equal('capabilities' in parseSettings(yaml(''), 'x.yaml', fields), false);
  t.strictSame(parseSettings(yaml(guarded), 'x.yaml', fields).capabilities, {
    ...{ wordGuard: { word: 'sesame' }, note: { text: 'hello' } },
  });
  await t.rejects(readSettings(yaml(guarded), 'x.yaml'), { message: /unknown key 'wordGuard'/ }, 'of this build');
  t.equal('capabilities' in withoutSecrets(parseSettings(yaml(''), 'x.yaml', fields)), false);
});

t.test("at a gateway a document of the capability's own kind does the same, over a real socket", async (t) => {
  const app = await startEcho(t, 'a');
  const document = (spec: string): string =>
    `---\napiVersion: sallyport.dev/v1alpha1\nkind: WordGuard\nmetadata: { name: w, namespace: shop }\nspec: { targetRef: { group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }, ${spec} }\n`;
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'all.yaml': webGateway + webRoute + serviceOf('a'), 'w.yaml': document('word: sesame') },
    capabilities: madeUp,
  });
  const get = (headers: Record<string, string>) => ask(gateway.port('shop/g:80'), '/?word=x', { headers });
  t.match(await get({ host: 'a' }), { status: 403, text: 'say the word' });
  t.match(await get({ host: 'a', 'x-word': 'sesame', 'x-word-said': 'me' }), {
    status: 200,
    echo: { headers: { 'x-word-said': undefined } },
  });
  await gateway.write('w.yaml', document('wrod: sesame'));
  t.match(await get({ host: 'a', 'x-word': 'sesame' }), { status: 500 });
  const status = await (await fetch(`http://127.0.0.1:${gateway.admin}/gateway-status`)).text();
  t.match(status, /"kind":\s*"WordGuard"/);
  const records = await gateway.records(2);
  t.strictSame(
    records.slice(0, 2).map(({ path }) => path),
    ['/', '/'],
    'its parameter is secret',
  );
});

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));
const preload = new URL('../fixtures/loaded-modules.mjs', import.meta.url).href;

t.test('a running sidecar without such a field loads no edge module', async (t) => {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'web', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies/policy.yaml'), allowAll);
  const app = await startEcho(t, 'a');
  const [inbound, out] = [await freePort(), await freePort()];
  writeFileSync(
    join(dir, 'web.yaml'),
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: web }\nidentity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }\npolicies: policies/\ninbound: [{ port: ${inbound}, bind: 127.0.0.1, app: "127.0.0.1:${app}" }]\noutbound: [{ port: ${out} }]\nupstreams: { web: { endpoints: ["127.0.0.1:${inbound}"], identity: spiffe://demo.test/ns/shop/sa/web } }\nlimits: { drainMinimum: 0s }\n`,
  );
  const list = join(dir, 'modules.txt');
  const child = startProcess(
    t,
    process.execPath,
    ['--import', preload, bin, 'sidecar', '--config', join(dir, 'web.yaml')],
    {
      env: { LOADED_MODULES: list },
    },
  );
  await child.waitFor(/"code":"ready"/);
  t.equal((await ask(out, '/', { headers: { host: 'web' } })).status, 200, 'the sidecar serves');
  const loaded = readFileSync(list, 'utf8').split('\n');
  t.ok(
    loaded.some((url) => url.endsWith('/sidecar/proxy.ts')),
    "the list is the sidecar's",
  );
  t.strictSame(
    loaded.filter((url) => /\/sidecar\/(?:edge|documents)\/|\/node_modules\/(?:zod|yaml|@opentelemetry)\//.test(url)),
    [],
  );
  const reads = join(dir, 'reads.txt');
  const args = ['--import', preload, bin, 'sidecar', '--check', '--config', join(dir, 'web.yaml')];
  const code = await startProcess(t, process.execPath, args, { env: { LOADED_MODULES: reads } }).exited;
  t.equal(code, 0);
  const read = readFileSync(reads, 'utf8');
  t.match(read, '/sidecar/config/sidecar-settings.ts', 'the code that reads the file');
  t.notMatch(read, /\/sidecar\/edge\/(?:capabilities\.ts|[^/\n]+\/)/, 'the table is not loaded to read it');
});
