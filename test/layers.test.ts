// The architecture as a check: imports point up the list of layers only, no two files import each other in a circle,
// cert-agent never imports sidecar, the CA and the agent meet over the network only, and each thing that must have one
// owner has one.

import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { capabilities } from '../sidecar/edge/capabilities.ts';
import { files as sources, treeOf } from './fixtures/tree.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

/**
 * From the bottom up: a file may import from its own layer and from lower ones. Layers of one line do not import each
 * other.
 */
const layers: readonly (readonly (readonly [name: string, files: RegExp])[])[] = [
  [['base', /^cert-agent\/base\//]],
  [['identity', /^cert-agent\/identity\//]],
  [['attestation', /^cert-agent\/attestation\//]],
  [
    ['agent', /^cert-agent\/(?:agent\/|[^/]+$)/],
    ['ca', /^cert-agent\/ca\//],
  ],
  [['cluster', /^sidecar\/cluster\//]],
  [['policy', /^sidecar\/policy\//]],
  [['exchange', /^sidecar\/exchange\//]],
  [['schema', /^sidecar\/schema\//]],
  [['observe', /^sidecar\/observe\//]],
  [['connection', /^sidecar\/connection\.ts$/]],
  [['protocol', /^sidecar\/protocol\//]],
  [
    ['upstream', /^sidecar\/upstream\//],
    ['tokens', /^sidecar\/tokens\//],
    ['routing', /^sidecar\/routing\//],
  ],
  [['edge', /^sidecar\/edge\//]],
  [
    [
      'path',
      /^sidecar\/(?:listener|peer|head|route|front-door|sanitize|authorize|authenticate|ask-authorizer|hold-body|forward|onward|respond|access-log|proxy)\.ts$/,
    ],
  ],
  [['documents', /^sidecar\/documents\//]],
  [['config', /^sidecar\/config\//]],
  [['compile', /^sidecar\/compile\//]],
  [
    ['process', /^sidecar\/process\//],
    ['analyze', /^sidecar\/analyze\//],
    ['kube', /^sidecar\/kube\//],
  ],
  [['reference', /^sidecar\/reference\//]],
  [['cli', /^sidecar\/(?:cli\.ts|cli\/)/]],
];

interface Import {
  readonly from: string;
  readonly to: string;
  readonly isType: boolean;
  readonly isLazy: boolean;
}

const files = sources(root);

function importsOf(file: string): Import[] {
  const text = readFileSync(join(root, file), 'utf8');
  const found: Import[] = [];
  for (const match of text.matchAll(/^(?:import|export) (type )?[^;]*?from '([^']+)'/gms)) {
    found.push({ from: file, to: resolve(file, match[2]!), isType: match[1] !== undefined, isLazy: false });
  }
  for (const match of text.matchAll(/import\('([^']+)'\)/g))
    found.push({ from: file, to: resolve(file, match[1]!), isType: false, isLazy: true });
  return found;
}

function resolve(file: string, target: string): string {
  return target.startsWith('.') ? normalize(join(dirname(file), target)) : target;
}

const all = files.flatMap(importsOf);
const placeOf = (file: string): { readonly height: number; readonly name: string } | undefined => {
  const height = layers.findIndex((line) => line.some(([, pattern]) => pattern.test(file)));
  return height === -1 ? undefined : { height, name: layers[height]!.find(([, pattern]) => pattern.test(file))![0] };
};
const shown = (wrong: readonly Import[]): string[] => wrong.map(({ from, to }) => `${from} -> ${to}`);

t.test('every file has a layer', async (t) => {
  t.strictSame(
    files.filter((file) => placeOf(file) === undefined),
    [],
  );
});

t.test('imports point down to lower layers only, types included', async (t) => {
  const wrong = all.filter(({ from, to }) => {
    if (!to.endsWith('.ts')) return false;
    const [own, other] = [placeOf(from)!, placeOf(to)!];
    return other.height > own.height || (other.height === own.height && other.name !== own.name);
  });
  t.strictSame(shown(wrong), []);
});

t.test('no files import each other in a cycle, types included', async (t) => {
  const targets = new Map(
    files.map((file) => [file, all.flatMap(({ from, to, isLazy }) => (from === file && !isLazy ? [to] : []))]),
  );
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, way: readonly string[]): void => {
    const at = way.indexOf(file);
    if (at !== -1) return void circles.push([...way.slice(at), file].join(' -> '));
    if (done.has(file)) return;
    for (const next of targets.get(file) ?? []) visit(next, [...way, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  t.strictSame(circles, []);
});

t.test('a capability consists of its folder and one line of the table', async (t) => {
  const inEdge = /^sidecar\/edge\/([^/]+)\//;
  const folderOf = (file: string): string | undefined => inEdge.exec(file)?.[1];
  t.strictSame(
    shown(
      all.filter(
        ({ from, to }) => /^sidecar\/edge\/[^/]+\/capability\.ts$/.test(to) && from !== 'sidecar/edge/capabilities.ts',
      ),
    ),
    [],
    'only the table imports them',
  );
  t.strictSame(
    shown(
      all.filter(({ from, to }) => {
        const [own, other] = [folderOf(from), folderOf(to)];
        return own !== undefined && other !== undefined && own !== other;
      }),
    ),
    [],
    'no capability imports another',
  );
  t.strictSame(
    shown(
      all.filter(
        ({ from, to, isType, isLazy }) =>
          /^sidecar\/(?:edge\/[^/]+|routing)\/schema\.ts$/.test(to) &&
          !isType &&
          !isLazy &&
          !/^sidecar\/documents\//.test(from),
      ),
    ),
    [],
    'a schema is loaded by what reads documents, or lazily',
  );
  const folders = [...new Set(files.flatMap((file) => folderOf(file) ?? []))].toSorted();
  const table = readFileSync(join(root, 'sidecar/edge/capabilities.ts'), 'utf8');
  for (const folder of folders) {
    t.match(table, `from './${folder}/capability.ts'`, `${folder} is in the table`);
    for (const file of ['README.md', 'schema.ts'])
      t.ok(existsSync(join(root, 'sidecar/edge', folder, file)), `${folder}/${file}`);
    t.not(globSync(`test/edge/${folder}/*.test.ts`, { cwd: root }).length, 0, `test/edge/${folder} has a test`);
  }
});

t.test('the path, the rule compiler and the gateway process name no capability', async (t) => {
  const neutral =
    /^sidecar\/(?:[^/]+\.ts|exchange\/.*|process\/gateway\.ts|compile\/(?:gateway-rule|gateway-ports|hooks)\.ts)$/;
  t.strictSame(shown(all.filter(({ from, to }) => neutral.test(from) && /^sidecar\/edge\/[^/]+\//.test(to))), []);
});

/** Files of the path, the compiler and the process that may say a name of a capability, and why. */
const mayName: Readonly<Record<string, { readonly names: readonly string[]; readonly why: string }>> = {
  'sidecar/authorize.ts': { names: ['headers'], why: 'those of a request, which policies test' },
  'sidecar/onward.ts': { names: ['rewrite'], why: 'the phase of this name' },
  'sidecar/compile/matches.ts': { names: ['headers'], why: 'those of a request, which routes test' },
  'sidecar/compile/gateway-pools.ts': {
    names: ['headers', 'validation'],
    why: 'what BackendTrafficPolicy hashes, and a field of BackendTLSPolicy',
  },
  'sidecar/compile/gateway-status.ts': { names: ['errorPages'], why: 'files of gateway.yaml, of which none is read' },
  'sidecar/process/api-check.ts': {
    names: [
      ...['RequestValidation', 'apiKeyAuth', 'authorization', 'basicAuth', 'csrf', 'extAuth', 'introspection'],
      ...['jwt', 'oidc'],
    ],
    why: "a command about the OpenAPI documents of RequestValidation, and their word for each field's way to authenticate",
  },
};

t.test('nor do they say a name of one', async (t) => {
  const words = new Set(capabilities.flatMap(({ name, fields }) => [name, ...fields.map((field) => field.name)]));
  const anyWord = new RegExp(`(?<![\\w-])(?:${[...words].join('|')})(?![\\w-])`, 'g');
  const wordsOf = (file: string): string[] => [
    ...new Set(codeOf(readFileSync(join(root, file), 'utf8')).match(anyWord) ?? []),
  ];
  const found = files
    .filter((file) => /^sidecar\/(?:(?:compile|process)\/)?[^/]+\.ts$/.test(file))
    .map((file) => [file, wordsOf(file).toSorted()] as const)
    .filter(([, names]) => names.length > 0);
  t.strictSame(
    Object.fromEntries(found),
    Object.fromEntries(Object.entries(mayName).map(([file, { names }]) => [file, names.toSorted()])),
    'what is in the list, and no more',
  );
  t.match(wordsOf('sidecar/edge/policy-parts.ts').length, /^[1-9]/, 'a name that is there is found');
});

/** Without comments, sentences in quotes, and what is imported from where: the test above sees that. */
function codeOf(text: string): string {
  return text
    .replace(/^(?:import|export) [^;]*?from '[^']+';/gms, '')
    .replace(/\/\*.*?\*\//gs, '')
    .replace(/(?:^|\s)\/\/ .*$/gm, '')
    .replace(/'(?:[^'\\\n]|\\.)*'|"[^"\n]*"/g, (one) => (one.includes(' ') ? "''" : one));
}

t.test('the tree is three levels deep, test/ mirrors it, and ARCHITECTURE.md shows it', async (t) => {
  t.strictSame(
    files.filter((file) => file.split('/').length > 4),
    [],
  );
  const folders = new Set(files.map((file) => dirname(file).replace(/^(?:sidecar|cert-agent)\/?/, '')));
  const own = /^test\/(?:attacks|examples|fixtures|fuzz|gateway|journeys|proxy|soak|vectors)(?:\/|$)|^test$/;
  const astray = globSync('test/**/*.test.ts', { cwd: root })
    .map(dirname)
    .filter((folder) => !own.test(folder) && !folders.has(folder.replace(/^test\//, '')));
  t.strictSame([...new Set(astray)], [], 'a folder of test/ matches one of the source, or is listed here');
  const tree = treeOf(root);
  t.comment(tree);
  const said = /<!-- tree -->\n```text\n([^`]*)```\n<!-- \/tree -->/.exec(
    readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8'),
  );
  t.equal(said?.[1], tree, 'node test/fixtures/tree.ts prints the right text');
});

t.test('agent and CA share only the network interface', async (t) => {
  const crossed = all.filter(
    ({ from, to }) =>
      (/^cert-agent\/ca\//.test(from) && placeOf(to)?.name === 'agent') ||
      (placeOf(from)?.name === 'agent' && /^cert-agent\/ca\//.test(to)),
  );
  t.strictSame(shown(crossed), []);
});

t.test('one file imports the X.509 library, one prints, one records ends, the compilers create permits', async (t) => {
  const importers = (target: string): string[] => [
    ...new Set(all.filter(({ to }) => to === target).map(({ from }) => from)),
  ];
  t.strictSame(importers('@peculiar/x509'), ['cert-agent/identity/x509.ts']);
  const printing = files.filter((file) =>
    /process\.(?:stdout|stderr)\.write|console\./.test(readFileSync(join(root, file), 'utf8')),
  );
  t.strictSame(printing, ['sidecar/cli/terminal.ts']);
  const minting = files.filter((file) => /\bmintPermit\(/.test(readFileSync(join(root, file), 'utf8'))).toSorted();
  t.strictSame(minting, [
    'sidecar/compile/gateway-ports.ts',
    'sidecar/compile/gateway-rule.ts',
    'sidecar/compile/sidecar-ports.ts',
    'sidecar/policy/compile.ts',
    'sidecar/policy/policy.ts',
  ]);
  const recording = files.filter((file) =>
    /\bexchange\.(?:decision|denial|details|failure|flag) (?:\?\?)?= /.test(readFileSync(join(root, file), 'utf8')),
  );
  t.strictSame(recording, ['sidecar/exchange/decision.ts'], 'one file records how an exchange was decided, and ended');
  const tunnelling = files.filter((file) => /\bmintTunnelPermit\(/.test(readFileSync(join(root, file), 'utf8')));
  t.strictSame(tunnelling.toSorted(), ['sidecar/compile/sidecar-ports.ts', 'sidecar/policy/policy.ts']);
});

t.test('the data path never imports node:http', async (t) => {
  const onPath = /^sidecar\/(?:exchange|protocol|upstream|policy|tokens|routing|edge)\/|^sidecar\/[^/]+\.ts$/;
  const users = all.filter(({ from, to }) => /^node:https?2?$/.test(to) && onPath.test(from)).map(({ from }) => from);
  t.strictSame(users, []);
  // Of what base/http.ts has of it, the path takes the table of reason phrases, which is data.
  const others = all.filter(({ from, to }) => to === 'cert-agent/base/http.ts' && onPath.test(from));
  t.strictSame(
    others.map(({ from }) => from),
    ['sidecar/protocol/http1/print.ts'],
  );
});

t.test("node:http is imported for types only: any other import loads Node's fetch library", async (t) => {
  t.strictSame(
    all.filter(({ to, isType }) => to === 'node:http' && !isType),
    [],
  );
});

t.test('a command imports its work when it runs', async (t) => {
  const heavy = all.filter(
    ({ from, to, isType, isLazy }) =>
      /^sidecar\/cli\//.test(from) &&
      !isType &&
      !isLazy &&
      to.endsWith('.ts') &&
      !/^sidecar\/cli\/|^cert-agent\/base\/(?:errors|clock|address|heap|shell-word|wrap)\.ts$/.test(to),
  );
  t.strictSame(shown(heavy), []);
});

t.test('the modules that a running process loads', async (t) => {
  const reachedFrom = (...roots: readonly string[]): ReadonlySet<string> => {
    const reached = new Set<string>();
    const follow = (file: string): void => {
      if (reached.has(file)) return;
      reached.add(file);
      for (const one of all) if (one.from === file && !one.isType && !one.isLazy) follow(one.to);
    };
    for (const file of roots) follow(file);
    return reached;
  };
  const sidecar = reachedFrom('sidecar/process/main.ts');
  t.ok(sidecar.has('sidecar/proxy.ts'));
  t.strictSame(
    [...sidecar].filter((file) => /^sidecar\/edge\//.test(file)),
    [],
    'a sidecar loads nothing of the edge',
  );
  const gateway = reachedFrom('sidecar/process/main.ts', 'sidecar/process/gateway.ts');
  t.strictSame(
    ['yaml', 'zod', 'undici', 'cert-agent/main.ts'].filter((one) => gateway.has(one)),
    [],
    'a gateway loads neither the YAML and schema libraries, nor a CA client that it does not need',
  );
  t.strictSame(
    [...sidecar, ...gateway, ...reachedFrom('sidecar/config/read-process.ts', 'sidecar/config/read.ts')].filter(
      (file) => /^sidecar\/reference\//.test(file),
    ),
    [],
    'nor what explains settings, which the process that reads them does not need either',
  );
});
