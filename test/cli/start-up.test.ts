// What a command loads, and so how long it takes to begin: the version needs no command, and a check of a policy nothing
// of the gateway.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Owner, startProcess, tempDir } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));
const reader = fileURLToPath(new URL('../../sidecar/config/read-process.ts', import.meta.url));
const hook = fileURLToPath(new URL('../fixtures/loaded-modules.mjs', import.meta.url));
const root = fileURLToPath(new URL('../../', import.meta.url));

/** Paths from the root of the modules that a command loads. */
async function loadedBy(t: Owner, args: readonly string[], program = bin): Promise<string[]> {
  const list = join(tempDir(t), 'loaded.txt');
  const env = { LOADED_MODULES: list };
  const child = startProcess(t, process.execPath, ['--import', hook, program, ...args], { env });
  const code = await child.exited;
  if (code !== 0 && code !== 1) throw new Error(`${args.join(' ')} ended with ${code}: ${child.stderr()}`);
  const urls = readFileSync(list, 'utf8')
    .split('\n')
    .filter((url) => url.startsWith('file:'));
  return urls.map((url) => fileURLToPath(url).replace(root, ''));
}

t.test('--version', async (t) => {
  const loaded = await loadedBy(t, ['--version']);
  t.strictSame(loaded.filter((path) => path.startsWith('sidecar/cli/')).toSorted(), [
    'sidecar/cli/help.ts',
    'sidecar/cli/terminal.ts',
    'sidecar/cli/version.ts',
  ]);
  t.ok(loaded.length < 25, `${loaded.length} modules`);
});

t.test('check of one policy', async (t) => {
  const file = join(tempDir(t), 'p.yaml');
  writeFileSync(
    file,
    'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a, namespace: b }\nspec: { rules: [{}] }\n',
  );
  const loaded = await loadedBy(t, ['check', file]);
  const others = loaded.filter((path) =>
    /^sidecar\/(?:edge\/[^/]+\/|documents\/(?:gateway-api\/read|envoy-gateway)|process|protocol)|node_modules\/(?:ajv|undici|jose|pino|prom-client|@bufbuild)\//.test(
      path,
    ),
  );
  t.strictSame(others, []);
  t.ok(loaded.length < 260, `${loaded.length} modules`);
});

t.test('check of a gateway without documents of our own kinds', async (t) => {
  const dir = tempDir(t);
  const config = join(dir, 'gateway.yaml');
  writeFileSync(
    config,
    'trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: documents/\n',
  );
  mkdirSync(join(dir, 'documents'));
  const check = ['gateway', '--config', config, '--check'];
  writeFileSync(
    join(dir, 'documents', 'all.yaml'),
    'apiVersion: v1\nkind: Service\nmetadata: { name: a, namespace: shop }\nspec: { ports: [{ port: 80 }] }\n',
  );
  const plain = await loadedBy(t, check);
  t.strictSame(
    plain.filter((path) => /node_modules\/(?:ajv|fast-uri|@bufbuild|protobufjs)\//.test(path)),
    [],
  );
  const schemas = (paths: readonly string[]): string[] =>
    paths.flatMap((path) => /^sidecar\/edge\/([^/]+)\/schema\.ts$/.exec(path)?.[1] ?? []);
  const ofOwnKinds = ['anomalies', 'cache', 'grpc-json', 'grpc-web', 'mcp', 'screening', 'validation'];
  t.strictSame(
    ofOwnKinds.filter((one) => schemas(plain).includes(one)),
    [],
  );
  t.ok(plain.length < 860, `${plain.length} modules`);
  writeFileSync(
    join(dir, 'documents', 'web.yaml'),
    'apiVersion: sallyport.dev/v1alpha1\nkind: GRPCWeb\nmetadata: { name: a, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }] }\n',
  );
  t.ok(schemas(await loadedBy(t, check)).includes('grpc-web'), 'with one, its schema is loaded');
});

t.test('the process that reads a configuration', async (t) => {
  const dir = tempDir(t);
  const ofSidecar = join(dir, 'sidecar.yaml');
  const ofGateway = join(dir, 'gateway.yaml');
  const common =
    'trustDomain: demo.test\nworkload: { serviceAccount: a }\nidentity: { files: { svid: x, key: x, bundle: x } }\n';
  writeFileSync(ofSidecar, `${common}inbound: [{ port: 1, app: "127.0.0.1:2" }]\npolicies: documents/\n`);
  writeFileSync(ofGateway, `${common}documents: documents/\n`);
  mkdirSync(join(dir, 'documents'));
  const bounds: readonly (readonly [file: string, modules: number])[] = [
    [ofSidecar, 160],
    [ofGateway, 420],
  ];
  for (const [file, most] of bounds) {
    const loaded = await loadedBy(t, [file], reader);
    t.ok(loaded.includes('node_modules/zod/v4/classic/schemas.js'));
    t.strictSame(
      loaded.filter((path) => path.includes('/zod/v4/locales/')),
      ['node_modules/zod/v4/locales/en.js'],
      'of the messages of zod the English ones',
    );
    t.strictSame(
      loaded.filter((path) => /node_modules\/(?:ajv|@bufbuild|protobufjs|undici|jose|pino|prom-client)\//.test(path)),
      [],
    );
    t.ok(loaded.length < most, `${loaded.length} modules`);
  }
});
