// The architecture as a check: imports point up the list of layers only, cert-agent never imports sidecar, the CA and
// the agent meet over the network only, and each thing that must have one owner has one.

import { globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('..', import.meta.url));

/** From the bottom up: a file may import from its own layer and from those above it in this list. */
const layers: [string, RegExp][] = [
  ['base', /^cert-agent\/base\//],
  ['identity', /^cert-agent\/identity\//],
  ['agent', /^cert-agent\/(?:agent\/|[^/]+$)/],
  ['ca', /^cert-agent\/ca\//],
  ['policy', /^sidecar\/policy\//],
  ['exchange', /^sidecar\/exchange\//],
  ['observe', /^sidecar\/observe\//],
  ['connection', /^sidecar\/connection\.ts$/],
  ['protocol', /^sidecar\/protocol\//],
  ['upstream', /^sidecar\/upstream\//],
  ['tokens', /^sidecar\/tokens\//],
  ['routing', /^sidecar\/routing\//],
  ['schema', /^sidecar\/schema\//],
  ['edge', /^sidecar\/edge\//],
  [
    'path',
    /^sidecar\/(?:listener|peer|head|route|front-door|sanitize|rewrite|authorize|authenticate|ask-authorizer|hold-body|forward|respond|access-log|proxy)\.ts$/,
  ],
  ['documents', /^sidecar\/documents\//],
  ['config', /^sidecar\/config\//],
  ['compile', /^sidecar\/compile\//],
  ['process', /^sidecar\/process\//],
  ['analyze', /^sidecar\/analyze\//],
  ['cli', /^sidecar\/(?:cli\.ts|cli\/)/],
];

interface Import {
  readonly from: string;
  readonly to: string;
  readonly isType: boolean;
  readonly isLazy: boolean;
}

const files = globSync('{cert-agent,sidecar}/**/*.ts', { cwd: root });

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
const layerOf = (file: string): number => layers.findIndex(([, pattern]) => pattern.test(file));

t.test('every file has a layer', async (t) => {
  t.strictSame(
    files.filter((file) => layerOf(file) === -1),
    [],
  );
});

t.test('imports point up the list only', async (t) => {
  const wrong = all.filter(({ from, to }) => to.endsWith('.ts') && layerOf(to) > layerOf(from));
  t.strictSame(
    wrong.map(({ from, to }) => `${from} -> ${to}`),
    [],
  );
});

t.test('a capability imports no other capability, and the table alone imports them', async (t) => {
  const folderOf = (file: string): string | undefined => /^sidecar\/edge\/([^/]+)\//.exec(file)?.[1];
  const crossed = all.filter(({ from, to }) => {
    const [own, other] = [folderOf(from), folderOf(to)];
    if (other === undefined || own === other) return false;
    return own !== undefined || (to.endsWith('/capability.ts') && from !== 'sidecar/edge/capabilities.ts');
  });
  t.strictSame(
    crossed.map(({ from, to }) => `${from} -> ${to}`),
    [],
  );
});

t.test('agent and CA are brothers: they meet over the network', async (t) => {
  const crossed = all.filter(
    ({ from, to }) =>
      (/^cert-agent\/ca\//.test(from) && /^agent$/.test(layers[layerOf(to)]?.[0] ?? '')) ||
      (layers[layerOf(from)]?.[0] === 'agent' && /^cert-agent\/ca\//.test(to)),
  );
  t.strictSame(crossed, []);
});

t.test('one file imports the X.509 library, one prints, the compilers mint permits', async (t) => {
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

t.test("nobody imports node:http but for its types: the statement alone loads Node's fetch library", async (t) => {
  t.strictSame(
    all.filter(({ to, isType }) => to === 'node:http' && !isType),
    [],
  );
});

t.test('a command loads only what it needs: its work is imported when it runs', async (t) => {
  const heavy = all.filter(
    ({ from, to, isType, isLazy }) =>
      /^sidecar\/cli\//.test(from) &&
      !isType &&
      !isLazy &&
      to.endsWith('.ts') &&
      !/^sidecar\/cli\/|^cert-agent\/base\/(?:errors|clock|address|heap)\.ts$/.test(to),
  );
  t.strictSame(
    heavy.map(({ from, to }) => `${from} -> ${to}`),
    [],
  );
});

t.test(
  'a running sidecar holds neither the YAML and schema libraries nor a CA client that it was not asked for',
  async (t) => {
    const reached = new Set<string>();
    const follow = (file: string): void => {
      if (reached.has(file)) return;
      reached.add(file);
      for (const one of all) if (one.from === file && !one.isType && !one.isLazy) follow(one.to);
    };
    follow('sidecar/process/main.ts');
    follow('sidecar/process/gateway.ts');
    t.ok(reached.has('sidecar/proxy.ts'));
    t.strictSame(
      ['yaml', 'zod', 'undici', 'cert-agent/main.ts'].filter((one) => reached.has(one)),
      [],
    );
  },
);
