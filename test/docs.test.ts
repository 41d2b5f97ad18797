// Documents that can be wrong are tested: codes, commands, files, ports and metrics that they name must exist.

import { existsSync, globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { codes } from '../cert-agent/base/errors.ts';
import { parseSettings } from '../sidecar/config/sidecar-settings.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (file: string): string => readFileSync(`${root}/${file}`, 'utf8');
const documents = [
  'README.md',
  'GATEWAY.md',
  'OPERATIONS.md',
  'ARCHITECTURE.md',
  'SECURITY.md',
  'CONTRIBUTING.md',
  ...globSync('examples/*/README.md', { cwd: root }),
  'perf/README.md',
  'cert-agent/ca/OPERATING.md',
];

t.test('the error table of ARCHITECTURE.md matches the code', async (t) => {
  const rows = Object.entries(codes).map(
    ([code, row]) => `| \`${code}\` | ${row.status} | ${row.grpc} | ${row.flag} | \`${row.details}\` |`,
  );
  const table = ['| code | HTTP | gRPC | flag | response_code_details |', '|---|---|---|---|---|', ...rows].join('\n');
  t.equal(/<!-- codes -->\n([\s\S]*?)\n<!-- \/codes -->/.exec(read('ARCHITECTURE.md'))?.[1], table);
});

t.test('the limits of ARCHITECTURE.md match sidecar.yaml', async (t) => {
  const table = /<!-- limits -->\n([\s\S]*?)\n<!-- \/limits -->/.exec(read('ARCHITECTURE.md'))?.[1] ?? '';
  const rows = [...table.matchAll(/^\| `(\w+)` \| `(\w+)`/gm)].map(([, name, value]) => `  ${name}: ${value}`);
  const yaml = `trustDomain: a.test\nworkload: { serviceAccount: a }\nidentity: { files: { svid: a, key: b, bundle: c } }\ninbound: [{ port: 1, app: '127.0.0.1:2' }]\n`;
  const { limits } = parseSettings(`${yaml}limits:\n${rows.join('\n')}\n`, 'x.yaml');
  t.match(parseSettings(yaml, 'x.yaml').limits, { ...limits, connections: Number }, 'with their defaults');
  // `descriptors` is the system's.
  const unset = [...table.matchAll(/^\| `(\w+)` \| none/gm)].length;
  t.equal(rows.length + unset, Object.keys(limits).length - 1, 'no limit is missing');
});

t.test('lines of documents have 120 characters at most, except rows of tables', async (t) => {
  const long = globSync('{*.md,{perf,examples,sidecar,cert-agent}/**/*.md}', { cwd: root }).flatMap((file) =>
    read(file)
      .split('\n')
      .flatMap((line, index) => (line.length > 120 && !line.startsWith('|') ? [`${file}:${index + 1}`] : [])),
  );
  t.strictSame(long, []);
});

t.test('documents build and run one image, and no package that is not published', async (t) => {
  const { version } = JSON.parse(read('package.json')) as { version: string };
  const image = `sallyport:${version}`;
  t.ok(read('charts/sallyport/values.yaml').includes(`image: ${image}\n`));
  for (const file of [...documents, 'Dockerfile']) {
    for (const [command, tag] of read(file).matchAll(/docker (?:build -t|run --rm) (\S+)/g))
      t.equal(tag, image, `${file}: ${command}`);
    t.notMatch(read(file), /npm install (?:--global|-g) sallyport/, file);
    for (const [, packed] of read(file).matchAll(/sallyport-(\S+?)\.tgz/g)) t.equal(packed, version, file);
  }
  t.match(read('OPERATIONS.md'), `docker build -t ${image} .`);
});

t.test('files that documents name exist', async (t) => {
  for (const document of documents) {
    for (const [, path] of read(document).matchAll(
      /`((?:cert-agent|sidecar|test|perf|examples)\/[A-Za-z0-9_./-]+)`/g,
    )) {
      t.ok(existsSync(`${root}/${path}`), `${document} names ${path}`);
    }
    for (const [, link] of read(document).matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g)) {
      t.ok(existsSync(new URL(link!, `file://${root}/${document}`)), `${document} links to ${link}`);
    }
  }
});

t.test('the threat model names every attack test, and no other', async (t) => {
  const table = /## Threat model\n([\s\S]*?)\n## /.exec(read('SECURITY.md'))?.[1] ?? '';
  const named = [...table.matchAll(/`([^`]+\.test\.ts)`/g)].map(([, file]) =>
    file!.includes('/') ? file! : `test/attacks/${file}`,
  );
  for (const file of named) t.ok(existsSync(`${root}/${file}`), file);
  for (const file of globSync('test/attacks/*.test.ts', { cwd: root })) t.ok(named.includes(file), `${file} has a row`);
});

t.test('npm scripts that documents name exist', async (t) => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  for (const document of documents) {
    for (const [, script] of read(document).matchAll(/npm run (?:-s )?([a-z]+)/g))
      t.ok(script! in scripts, `${document} names npm run ${script}`);
  }
});

t.test('metrics that documents name exist', async (t) => {
  const source = globSync('{cert-agent,sidecar}/**/*.ts', { cwd: root }).map(read).join('\n');
  for (const document of documents) {
    for (const [, metric] of read(document).matchAll(/`((?:istio|sallyport|identity_cert)_[a-z_]+)`/g))
      t.ok(source.includes(metric!), `${document} names ${metric}`);
  }
});
