// A DENY that is not read leaves open what it should close. Every file of a directory of policies, and of those below
// it, is read or named, by the sidecar, the gateway and each command; an unreadable path keeps the last good
// configuration.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import t from 'tap';
import { lint } from '../../sidecar/analyze/lint.ts';
import { readTree } from '../../sidecar/config/tree.ts';
import { placeDocuments } from '../../sidecar/documents/istio/read.ts';
import { readStatus } from '../../sidecar/process/dry-run.ts';
import { runCommand } from '../fixtures/command.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { allowAll, exchangeBytes, type Mesh, readState, startBackend, startMesh } from '../fixtures/mesh.ts';
import { serviceOf, webGateway, webRoute } from '../fixtures/plan.ts';
import { type Owner, tempDir, until } from '../fixtures/process.ts';

const deny = (path: string): string =>
  `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: deny-${path}, namespace: shop }\nspec: { action: DENY, rules: [{ to: [{ operation: { paths: [/${path}] } }] }] }\n`;
const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const ask = async (mesh: Mesh, path: string): Promise<string> =>
  (
    await exchangeBytes(mesh.outPort, `GET /${path} HTTP/1.1\r\nHost: orders.shop.svc\r\nConnection: close\r\n\r\n`)
  ).split(' ')[1]!;

/** Writes files of a directory, by name. */
function write(dir: string, texts: Readonly<Record<string, string>>): void {
  for (const [name, text] of Object.entries(texts)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), text);
  }
}

t.test('a running sidecar reads or names every file', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  const policies = join(mesh.dir, 'policies');
  const says = (path: string, status: string): Promise<unknown> =>
    until(async () => (await ask(mesh, path)) === status, `${status} for /${path}`);
  t.equal(await ask(mesh, 'a'), '200');
  write(policies, {
    'team/inner/a.yml': deny('a'),
    'team/b.json': JSON.stringify({
      apiVersion: 'security.istio.io/v1',
      kind: 'AuthorizationPolicy',
      metadata: { name: 'b', namespace: 'shop' },
      spec: { action: 'DENY', rules: [{ to: [{ operation: { paths: ['/b'] } }] }] },
    }),
  });
  await says('a', '403');
  await says('b', '403');
  write(policies, { 'team/inner/a.yml': deny('a2') });
  await says('a2', '403');
  t.equal(await ask(mesh, 'a'), '200', 'a change below the directory is detected, too');

  writeFileSync(join(policies, 'team/b.json'), '');
  for (const _ of [1, 2, 3]) {
    mesh.inbound.reload();
    t.equal(await ask(mesh, 'b'), '403', 'an editor that has just emptied a file is about to write it');
  }
  const problem = (): Promise<unknown> =>
    until(async () => {
      const { lastProblem } = (await readState(mesh.inAdmin)) as { lastProblem: object | null };
      return lastProblem !== null && { lastProblem };
    }, 'a problem');
  t.match(await problem(), {
    lastProblem: { code: 'config_invalid', message: /team\/b\.json:1:1: the file is empty/ },
  });
  t.equal(await ask(mesh, 'b'), '403', 'what may have been cut by a full disk opens nothing');
  rmSync(join(policies, 'team/b.json'));
  await says('b', '200');
  const named = (): unknown[] =>
    mesh.lines
      .filter(({ code }) => code === 'file_passed_over')
      .map(({ msg }) => String(msg).replace(`${policies}/`, ''));
  t.strictSame(named(), []);
  write(policies, {
    'team/deny.yaml.bak': deny('c'),
    'DENY.YAML': deny('d'),
    '.hidden.yaml': deny('e'),
    '..data/x.yaml': deny('f'),
  });
  await until(() => named().length >= 4, 'the files to be named');
  t.strictSame(named().toSorted(), [
    '..data/x.yaml: this file is not read: no link in the directory above points to it',
    '.hidden.yaml: this file is not read: hidden files and directories are not read',
    'DENY.YAML: this file is not read: its extension is not lower case',
    'team/deny.yaml.bak: this file is not read: only files that end in .yaml, .yml or .json are read',
  ]);

  t.test('an unreadable path keeps the last good generation, until it is readable', async (t) => {
    const { generation } = await readState(mesh.inAdmin);
    const problem = (isThere: boolean): Promise<unknown> =>
      until(async () => {
        const { lastProblem } = (await readState(mesh.inAdmin)) as { lastProblem: object | null };
        return (lastProblem !== null) === isThere && { lastProblem };
      }, 'a problem to come or go');
    symlinkSync('..', join(policies, 'team/loop'));
    write(policies, { 'team/inner/a.yml': deny('a3') });
    t.match(await problem(true), { lastProblem: { code: 'config_unreadable', message: /team\/loop cannot be read/ } });
    t.equal((await readState(mesh.inAdmin))['generation'], generation, 'nothing is applied');
    t.equal(await ask(mesh, 'a2'), '403');
    write(policies, { 'team/inner/a.yml': deny('a2') });
    rmSync(join(policies, 'team/loop'));
    await problem(false);
    t.equal(await ask(mesh, 'a2'), '403');
  });
});

t.test('unreadable paths are named', async (t) => {
  const dir = tempDir(t);
  write(dir, { 'sub/a.yaml': deny('a') });
  const refused = (name: string, make: (path: string) => void, message: RegExp): void => {
    make(join(dir, 'sub', name));
    t.throws(() => readTree(dir), { code: 'config_unreadable', message }, name);
    rmSync(join(dir, 'sub', name), { recursive: true });
  };
  refused(
    'loop',
    (path) => symlinkSync('..', path),
    /sub\/loop cannot be read: it is a link that leads back to a directory above it$/,
  );
  refused('self', (path) => symlinkSync('self', path), /sub\/self cannot be read: .*ELOOP/);
  refused('gone', (path) => symlinkSync('nowhere', path), /sub\/gone cannot be read: it is a link to a missing file$/);
  refused('pipe.yaml', (path) => execFileSync('mkfifo', [path]), /sub\/pipe.yaml cannot be read: it is not a file$/);
  refused(
    'deep',
    (path) => mkdirSync(join(path, 'x/'.repeat(20)), { recursive: true }),
    /cannot be read: it is more than 16 levels down$/,
  );
  t.strictSame(readTree(dir).files, [join(dir, 'sub/a.yaml')]);
  t.throws(() => readTree(join(dir, 'nowhere')), {
    code: 'config_unreadable',
    message: /nowhere cannot be read: .*ENOENT/,
  });
});

t.test('a Kubernetes volume is read once, and again when it is swapped', async (t) => {
  const dir = tempDir(t);
  write(dir, {
    '..1/deny.yaml': deny('a'),
    '..1/team/more.yaml': deny('b'),
    '..2/deny.yaml': deny('c'),
    '..2/team/more.yaml': deny('d'),
  });
  symlinkSync('..1', join(dir, '..data'));
  symlinkSync('..data/deny.yaml', join(dir, 'deny.yaml'));
  symlinkSync('..data/team', join(dir, 'team'));
  symlinkSync('deny.yaml', join(dir, 'same.yaml'));
  const tree = readTree(dir);
  t.strictSame(tree.files, [join(dir, 'deny.yaml'), join(dir, 'team/more.yaml')]);
  t.strictSame(
    tree.passedOver.map(({ file, message }) => `${relative(dir, file)}: ${message}`),
    [
      `same.yaml: this file is not read: it is the same file as ${join(dir, 'deny.yaml')}, which is read`,
      '..2/deny.yaml: this file is not read: no link in the directory above points to it',
      '..2/team/more.yaml: this file is not read: no link in the directory above points to it',
    ],
  );
  symlinkSync('..2', join(dir, '..new'));
  renameSync(join(dir, '..new'), join(dir, '..data'));
  t.match(readFileSync(readTree(dir).files[1]!, 'utf8'), /deny-d/);
});

/** A directory of policies with a sub-directory and a file beside it. */
function policiesIn(t: Owner): string {
  const dir = tempDir(t);
  write(dir, {
    'sidecar.yaml':
      'trustDomain: demo.test\nworkload: { serviceAccount: a, namespace: shop }\nidentity: { files: { svid: a, key: b, bundle: c } }\ninbound: [{ port: 15006, app: "127.0.0.1:8080" }]\npolicies: policies/\n',
    'policies/all.yaml': allowAll,
    'policies/team/deny.yaml': deny('a'),
    'policies/team/deny.yaml.bak': deny('b'),
    'bad/team/deny.yaml': deny('a').replace('action', 'acton'),
  });
  return dir;
}

t.test('names that begin with two dots, and names that are not text', async (t) => {
  const dir = tempDir(t);
  for (const name of ['..deny.yaml', '..team']) {
    if (name === '..team') mkdirSync(join(dir, name));
    else writeFileSync(join(dir, name), '');
  }
  writeFileSync(join(dir, 'ok.yaml'), '');
  const { files, passedOver } = readTree(dir);
  t.strictSame(files, [join(dir, 'ok.yaml')]);
  t.match(
    passedOver.map(({ file, message }) => `${file.slice(dir.length + 1)}: ${message}`),
    [/^\.\.deny\.yaml: this file is not read: hidden files/, /^\.\.team: this file is not read: hidden files/],
  );
  // Latin-1, as an old archive unpacks it.
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/f`), Buffer.from([0xfc]), Buffer.from('r.yaml')]), '');
  t.throws(() => readTree(dir), { code: 'config_unreadable', message: /its name is not UTF-8$/ });
});

t.test('each command reads subdirectories and names the files that it does not read', async (t) => {
  const dir = policiesIn(t);
  const at = join(dir, 'policies');
  const warning =
    /policies\/team\/deny\.yaml\.bak: this file is not read: only files that end in \.yaml, \.yml or \.json are read/;
  const [checked, check, linted, evaluated, bad] = await Promise.all([
    runCommand(t, ['sidecar', '--config', join(dir, 'sidecar.yaml'), '--check']),
    runCommand(t, ['check', at]),
    runCommand(t, ['policy', 'lint', at]),
    runCommand(t, [
      'policy',
      'eval',
      '--policies',
      at,
      '--namespace',
      'shop',
      '--from',
      'spiffe://cluster.local/ns/shop/sa/web',
      'GET',
      '/a',
    ]),
    runCommand(t, ['check', join(dir, 'bad')]),
  ]);
  t.match(checked, { code: 0, stderr: warning });
  t.match(checked.stderr, /2 policies/);
  t.match(check, { code: 0, stderr: warning });
  t.match(check.stderr, /2 documents are valid/);
  t.match(linted, { code: 1, stdout: /deny\.yaml\.bak:1:1: .*file_passed_over/ });
  t.match(evaluated, { code: 1, stderr: warning }, 'the DENY below holds');
  t.match(bad, { code: 1, stderr: /bad\/team\/deny\.yaml:4:9: unknown key 'acton'/ });
});

t.test('a gateway, and the checks of its documents', async (t) => {
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: 'errorPages: pages\n',
    files: {},
    documents: { 'all.yaml': webGateway + serviceOf('a'), 'x.yaml.orig': 'x' },
  });
  const documents = join(gateway.dir, 'documents');
  write(gateway.dir, { 'pages/404.html': 'x', 'pages/40x.html': 'x' });
  write(documents, { 'team/route.yaml': webRoute });
  const state = (): Promise<string> =>
    fetch(`http://127.0.0.1:${gateway.admin}/gateway-status`).then((one) => one.text());
  await until(async () => (await state()).includes('"HTTPRoute"'), 'the route below');
  const said = (): string[] =>
    gateway.lines.filter(({ code }) => code === 'file_passed_over').map(({ msg }) => String(msg));
  await until(() => said().length >= 2, 'both to be named');
  t.match(said().toSorted(), [
    /documents\/x\.yaml\.orig: /,
    /pages\/40x\.html: this file is not read: an error page is named after its status, 404\.html or 5xx\.html$/,
  ]);
  for (const path of [join(gateway.dir, 'gateway.yaml'), documents]) {
    const { list, warnings } = await readStatus(path, 0);
    t.ok(
      list.items.some(({ kind }) => kind === 'HTTPRoute'),
      path,
    );
    t.match(warnings, [/x\.yaml\.orig:1:1: this file is not read/]);
  }
});

const head =
  'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: shop }\nspec: { action: DENY, rules: [{ ';
const scope = {
  ...{ trustDomain: 'demo.test', trustDomainAliases: [], rootNamespace: 'istio-system', workloads: [], tcpPorts: [] },
  ...{ ports: [8080], pathNormalization: 'MERGE_SLASHES' as const },
};
const dead = (rule: string): string[] =>
  lint(placeDocuments([{ file: 'x.yaml', text: `${head}${rule} }] }\n` }]).placed, scope)
    .findings.filter(({ code }) => code === 'never_matches' || code === 'dead_rule')
    .map(({ message }) => message);
const paths = (...list: string[]): string => `to: [{ operation: { paths: ${JSON.stringify(list)}, ports: ["8080"] } }]`;

t.test('lint finds rules that can never match', async (t) => {
  const cases: [string, RegExp][] = [
    [paths('admin'), /'admin' never matches: a path begins with \//],
    [paths('/a?b=c'), /never matches: paths are evaluated without their query/],
    [paths('/a#b'), /never matches: paths are evaluated without their query and have no fragment/],
    [paths('/a//b'), /'\/a\/\/b' never matches: paths are evaluated in normal form \(MERGE_SLASHES\)/],
    [paths('/a//*'), /normal form/],
    [paths('*//b'), /normal form/],
    [paths('/a/../b'), /normal form/],
    [paths('/a/./*'), /normal form/],
    [paths('/%41'), /normal form/],
    [paths('/a\\b'), /normal form/],
    [paths('/a%zz'), /a request for it is refused before any policy/],
    [paths('/a b'), /refused before any policy/],
    [paths('/../a'), /refused before any policy/],
    [`to: [{ operation: { notPaths: ["/a//b"], ports: ["8080"] } }]`, /normal form/],
    ['to: [{ operation: { hosts: ["https://a.test"], ports: ["8080"] } }]', /a host has no scheme/],
    ['to: [{ operation: { hosts: ["a.test/x"], ports: ["8080"] } }]', /a host has no path/],
    ['to: [{ operation: { ports: ["15006"] } }]', /'15006' never matches: the workload has no such port, only 8080/],
    ['when: [{ key: destination.port, values: ["9"] }]', /the workload has no such port/],
    ['when: [{ key: "request.headers[X Y]", values: [a] }]', /'X Y' is not a header name/],
    ['from: [{ source: { namespaces: [Shop] } }]', /a namespace consists of/],
    ['from: [{ source: { requestPrincipals: [issuer] } }]', /the form is 'issuer\/subject'/],
    [
      'from: [{ source: { principals: [td/ns/a/sa/x], namespaces: [b] } }]',
      /its 'namespaces' exclude all of its 'principals'/,
    ],
    ['from: [{ source: { principals: [td/ns/a/sa/x], notNamespaces: [a] } }]', /its 'notNamespaces' exclude/],
    ['from: [{ source: { namespaces: [a], notNamespaces: ["*"] } }]', /excluded by its own negation/],
    [
      'from: [{ source: { ipBlocks: [10.1.0.0/16], notIpBlocks: [10.0.0.0/8] } }]',
      /every value of 'ipBlocks' is excluded/,
    ],
    [
      'from: [{ source: { remoteIpBlocks: ["fd00:1::/32"], notRemoteIpBlocks: ["fd00::/8"] } }]',
      /every value of 'remoteIpBlocks' is excluded/,
    ],
    [
      'when: [{ key: source.ip, values: [10.1.2.3], notValues: [10.0.0.0/8] }]',
      /every value of 'source.ip' is excluded/,
    ],
    [
      'when: [{ key: "request.headers[a]", values: [ab], notValues: ["a*"] }]',
      /every value of 'request.headers\[a\]' is excluded/,
    ],
    ['when: [{ key: source.principal, values: ["spiffe://td/ns/a/sa/b"] }]', /written without 'spiffe:/],
    [
      'when: [{ key: connection.sni, values: [a] }, { key: connection.sni, values: [b] }]',
      /two values at once: conditions 0 and 1/,
    ],
  ];
  for (const [rule, message] of cases) t.match(dead(rule), [message], rule);
  t.match(
    lint(
      placeDocuments([
        { file: 'x.yaml', text: `${head.replace('spec: {', 'spec: { selector: { matchLabels: {} },')}}] }\n` },
      ]).placed,
      scope,
    ).findings,
    [{ code: 'selector_without_labels', line: 4 }],
  );
  const alive = [
    paths('/a', '/a/*', '*.png', '*', '/a/{*}/b', '/a%2Fb', '/a%4*', '*/x/..y', '/a/.', '*41').replace('"/a/.",', ''),
    'to: [{ operation: { hosts: ["A.test", "*.Test:8080"], ports: ["8080"] } }]',
    'from: [{ source: { principals: [td/ns/a/sa/x], namespaces: [a] } }]',
    'from: [{ source: { principals: ["*"], namespaces: [b] } }]',
    'from: [{ source: { ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16] } }]',
    'from: [{ source: { ipBlocks: ["::/0"], notIpBlocks: [0.0.0.0/0] } }]',
    'from: [{ source: { requestPrincipals: ["a/b", "*", "a*"] } }]',
    'when: [{ key: "request.auth.claims[g]", values: [a] }, { key: "request.auth.claims[g]", values: [b] }]',
  ];
  for (const rule of alive) t.strictSame(dead(rule), [], rule);
});
