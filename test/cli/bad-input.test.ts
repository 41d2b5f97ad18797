// Every command with input that it cannot use: a file that is not there, a directory, bytes, nothing, a document of
// another kind. Each says what is wrong in a line or more, without a stack trace, and with an exit code that means it.

import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { createAuthority } from '../fixtures/pki.ts';

import { startProcess, tempDir } from '../fixtures/process.ts';
import type { Ran } from '../fixtures/run-commands.ts';

const script = fileURLToPath(new URL('../fixtures/run-commands.ts', import.meta.url));

/** Commands by what they are given, `FILE`; `BUNDLE` is a good bundle, and `OUT` a new directory. */
const commands = [
  ...['check FILE', 'check --json FILE', 'sidecar --config FILE', 'sidecar --check --config FILE'],
  ...['sidecar --check --json --config FILE', 'gateway --config FILE', 'gateway --check --config FILE'],
  ...['doctor --config FILE', 'exec --config FILE -- true', 'openapi check --config FILE'],
  ...['policy explain --policies FILE GET /', 'policy explain --config FILE GET /', 'policy eval --batch FILE'],
  ...['policy test FILE', 'policy lint FILE', 'policy diff FILE FILE --namespace a', 'policy propose --learned FILE'],
  ...['policy replay --log FILE --policies FILE --namespace a', 'crs import FILE'],
  ...['inject --ca-bundle BUNDLE -f FILE', 'inject --ca-bundle FILE -f FILE'],
  ...['inspect FILE', 'inspect BUNDLE --bundle FILE', 'inspect BUNDLE --key FILE'],
  ...[
    'ca ls --dir FILE',
    'ca agents --dir FILE',
    'ca serve --dir FILE --listen 127.0.0.1:0',
    'ca rotate issuer --dir FILE',
  ],
  ...['ca token create --dir FILE --spiffe-id spiffe://a.test/x', 'ca backup --dir FILE --out OUT'],
  ...[
    'ca ledger verify FILE --ca-bundle BUNDLE',
    'ca ledger verify FILE --ca-bundle FILE',
    'ca ledger show --dir FILE',
  ],
  ...['ca restore --from FILE --dir OUT', 'ca init --trust-domain a.test --dir OUT --external-root FILE'],
  ...['ca init --trust-domain a.test --dir OUT --passphrase-file FILE'],
];

/** What is no problem for a command: it takes this kind of input, and finds nothing in it. */
const fine = new Set([
  'policy propose --learned empty',
  // A filter passes on what is no workload, as it is.
  ...['pod', 'empty', 'large'].map((kind) => `inject --ca-bundle BUNDLE -f ${kind}`),
  // Any first line is a passphrase.
  ...['pod', 'bytes'].map((kind) => `ca init --trust-domain a.test --dir OUT --passphrase-file ${kind}`),
]);

/** Those that read documents, or anything that they are given. */
const readers = [
  ...['check FILE', 'sidecar --check --config FILE', 'gateway --check --config FILE', 'openapi check --config FILE'],
  ...['policy lint FILE', 'inject --ca-bundle BUNDLE -f FILE', 'inspect FILE'],
];

t.test('no command passes, or falls over, with input that it cannot use', { timeout: 240_000 }, async (t) => {
  const dir = tempDir(t);
  const bundle = join(dir, 'bundle.pem');
  writeFileSync(bundle, (await createAuthority('demo.test')).bundlePem);
  mkdirSync(join(dir, 'directory'));
  writeFileSync(join(dir, 'bytes'), randomBytes(5000));
  writeFileSync(join(dir, 'empty'), '');
  writeFileSync(join(dir, 'pod'), 'apiVersion: v1\nkind: Pod\nmetadata: { name: a }\nspec: { containers: [] }\n');
  const kinds = ['missing', 'directory', 'bytes', 'empty', 'pod'];
  let outs = 0;
  // One workload of 50 MB: more than an API server takes, and than is worth the memory of its parsed form.
  writeFileSync(
    join(dir, 'large'),
    `kind: Deployment\nmetadata:\n  name: a\n  labels:\n${'    a: b\n'.repeat(5_555_555)}`,
  );
  const rows = [
    ...commands.flatMap((command) => kinds.map((kind) => ({ command, kind }))),
    ...readers.map((command) => ({ command, kind: 'large' })),
  ];
  const asked = rows.map(({ command, kind }) =>
    command.split(' ').map((word) => {
      if (word === 'FILE') return join(dir, kind);
      return word === 'BUNDLE' ? bundle : word === 'OUT' ? join(dir, `out${outs++}`) : word;
    }),
  );
  const child = startProcess(t, process.execPath, [script], { cwd: dir });
  child.process.stdin!.end(JSON.stringify(asked));
  t.equal(await child.exited, 0, child.stderr());
  const results = JSON.parse(child.stdout()) as Ran[];
  for (const [index, { args, code, stdout, stderr, ms }] of results.entries()) {
    const { command, kind } = rows[index]!;
    const name = `${command.replaceAll(' FILE', '')} ${kind}`;
    if (fine.has(name)) continue;
    const said = stderr + stdout;
    t.ok([1, 2, 3, 125].includes(code), `${args.join(' ')} ends with ${code}: ${said}`);
    t.notMatch(said, /^\s+at .*:\d+:\d+\)?$|node:internal|TypeError|undefined/m, name);
    t.match(said, /\S/, `${name} says something`);
    t.ok(said.length < 20_000, `${name} prints ${said.length} characters`);
    t.ok(ms < 20_000, `${name} takes ${ms} ms`);
  }
});
