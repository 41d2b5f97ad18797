// The package: what set-up does and leaves alone, what the binary says to an old Node, what is shipped and runs.

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Owner, runSallyport, startProcess, tempDir } from './fixtures/process.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

async function run(
  t: Owner,
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = startProcess(t, command, args, options);
  const code = await child.exited;
  return { code, stdout: child.stdout(), stderr: child.stderr() };
}

/** A clone in which `npm` is a script: it writes down that it ran, and does `work`. */
function makeClone(
  t: Owner,
  work: string,
): { clone: string; setUp(stage?: string): ReturnType<typeof run>; calls(): string[] } {
  const clone = tempDir(t);
  const bin = join(clone, 'bin');
  mkdirSync(bin);
  for (const name of ['setup.mjs', 'package.json', 'package-lock.json'])
    copyFileSync(join(root, name), join(clone, name));
  for (const [name, script] of [
    ['npm', `echo "$@" >> ${clone}/calls\n${work}`],
    ['tap', `mkdir -p ${clone}/.tap/plugins`],
  ] as const)
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return {
    clone,
    setUp: (stage) =>
      run(t, process.execPath, ['setup.mjs', ...(stage === undefined ? [] : [stage])], {
        cwd: clone,
        env: { PATH: `${bin}:${process.env['PATH']}` },
      }),
    calls: () =>
      existsSync(join(clone, 'calls')) ? readFileSync(join(clone, 'calls'), 'utf8').trim().split('\n') : [],
  };
}

interface Manifest {
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
}

function manifestOf(directory: string): Manifest {
  return JSON.parse(readFileSync(join(root, directory, 'package.json'), 'utf8')) as Manifest;
}

const developing = Object.keys(manifestOf('.').devDependencies);
const installs = `mkdir -p node_modules/node/bin && touch node_modules/.package-lock.json && ln -sf ${process.execPath} node_modules/node/bin/node
case "$*" in *--include=dev*) ${developing.map((name) => `mkdir -p node_modules/${name} && touch node_modules/${name}/package.json`).join(';')};; esac`;
const quietly = '--no-audit --no-fund --loglevel=error';

t.test('set-up installs once, and again only when the lock file is newer', async (t) => {
  const { clone, setUp, calls } = makeClone(t, installs);
  t.match(await setUp(), { code: 0, stderr: 'sallyport: installing dependencies (once) ...\n' });
  t.same(calls(), [`ci --omit=dev ${quietly}`]);
  t.match(await setUp(), { code: 0, stderr: '' }, 'set-up prints nothing when there is nothing to do');
  t.equal(calls().length, 1);
  mkdirSync(join(clone, '.tap', 'plugins'), { recursive: true });
  const later = new Date(Date.now() + 60_000);
  utimesSync(join(clone, 'package-lock.json'), later, later);
  t.match(await setUp(), { code: 0 });
  t.equal(calls().length, 2);
  t.notOk(existsSync(join(clone, '.tap', 'plugins')), 'files built from the old packages are gone');
});

t.test('a later stage of set-up adds what it needs, and an earlier one takes nothing away', async (t) => {
  const { setUp, calls } = makeClone(t, installs);
  t.match(await setUp(), { code: 0 });
  t.match(await setUp('dev'), { code: 0, stderr: 'sallyport: installing what builds and tests need (once) ...\n' });
  const both = [`ci --omit=dev ${quietly}`, `install --no-save --include=dev ${quietly}`];
  t.same(calls(), both);
  t.match(await setUp('test'), { code: 0, stderr: 'sallyport: preparing the test runner (once) ...\n' });
  for (const stage of ['dev', 'test', undefined]) t.match(await setUp(stage), { code: 0, stderr: '' });
  t.same(calls(), both);

  const tested = makeClone(t, installs);
  t.match(await tested.setUp('test'), { code: 0 });
  t.same(tested.calls(), [`ci --include=dev ${quietly}`]);
  t.match(await tested.setUp('tests'), { code: 2, stderr: "'node setup.mjs' takes 'dev' or 'test', not 'tests'." });
});

t.test('the pinned Node is installed without devDependencies, and its hash is in the lock file', async (t) => {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string; integrity?: string; dev?: boolean }>;
  };
  const pinned = packages['node_modules/node'];
  t.match(pinned, { version: manifestOf('pinned-node').dependencies['node'], integrity: /^sha512-/ });
  t.notOk(pinned!.dev);
  const { dependencies, devDependencies } = manifestOf('.');
  t.notOk('node' in dependencies || 'node' in devDependencies, 'no user of the package installs it');
});

t.test('each command of package.json sets up what it runs', async (t) => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  for (const [name, script] of Object.entries(scripts)) {
    const needs = /\btap\b|test\/(run|nodes)\.ts/.test(script)
      ? ' test'
      : /biome|tsc|build\.mjs|\bperf\//.test(script)
        ? ' dev'
        : '';
    if (script.startsWith('npm ') || name === 'setup') continue;
    t.ok(script.startsWith(`node setup.mjs${needs} && `), `${name}: ${script}`);
  }
});

t.test('set-up explains a failure in one sentence', async (t) => {
  const offline = makeClone(t, 'exit 1');
  t.match(await offline.setUp(), {
    code: 2,
    stderr: /^sallyport: 'npm ci' failed: is the package registry reachable\?$/m,
  });
  const scriptless = makeClone(t, 'mkdir -p node_modules && touch node_modules/.package-lock.json');
  t.match(await scriptless.setUp(), {
    code: 2,
    stderr: /^sallyport: the pinned Node is missing: .*'npm rebuild node/m,
  });
});

t.test('the binary checks the version of Node before it imports anything', async (t) => {
  const asOld = (version: string): string =>
    `data:text/javascript,Object.defineProperty(process,'versions',{value:{...process.versions,node:'${version}'}})`;
  // Where nothing else of the product is, an import would fail.
  const alone = join(tempDir(t), 'bin.mjs');
  copyFileSync(join(root, 'sidecar', 'bin.mjs'), alone);
  for (const version of ['18.20.0', '20.11.1', '24.18.9'])
    t.match(await run(t, process.execPath, ['--import', asOld(version), alone]), {
      code: 2,
      stdout: '',
      stderr: `sallyport: Node 24.19 or later is required, but this is ${version}; in a clone, 'npm run setup' installs one, and 'node_modules/.bin/node sidecar/bin.mjs' runs with it\n`,
    });
  const bin = join(root, 'sidecar', 'bin.mjs');
  for (const version of ['24.19.0', '26.0.0'])
    t.match(await run(t, process.execPath, ['--import', asOld(version), bin, '--version']), { code: 0 });
});

t.test('the shell begins Node with the young generation that a proxy needs, through a link too', async (t) => {
  const dir = tempDir(t);
  const node = join(dir, 'node');
  writeFileSync(node, '#!/bin/sh\nprintf "[%s]" "$@"\n', { mode: 0o755 });
  const bin = join(root, 'sidecar', 'bin.mjs');
  const link = join(dir, 'sallyport');
  symlinkSync(bin, link);
  const env = { ...process.env, PATH: `${dir}:${process.env['PATH']}` };
  for (const program of [bin, link]) {
    const { stdout, stderr } = spawnSync(program, ['check', 'a b', '*'], { env, encoding: 'utf8' });
    t.strictSame({ stdout, stderr }, { stdout: `[--min-semi-space-size=4][${program}][check][a b][*]`, stderr: '' });
  }
});

t.test('a compile cache that others can write to is not used, and a new one is for its owner only', async (t) => {
  const place = tempDir(t);
  for (const name of ['sidecar', 'cert-agent', 'package.json'])
    cpSync(join(root, name), join(place, name), { recursive: true });
  mkdirSync(join(place, 'node_modules'));
  for (const name of readdirSync(join(root, 'node_modules')).filter((one) => !one.startsWith('.')))
    symlinkSync(join(root, 'node_modules', name), join(place, 'node_modules', name));
  const cache = join(place, 'node_modules', '.cache', 'node');
  const { NODE_COMPILE_CACHE: _, ...env } = process.env;
  const version = (): void => {
    const program = join(place, 'sidecar', 'bin.mjs');
    const { status, stderr } = spawnSync(
      'sh',
      ['-c', 'umask 000; exec "$0" "$@"', process.execPath, program, '--version'],
      { env, encoding: 'utf8' },
    );
    t.equal(status, 0, stderr);
  };
  version();
  t.equal(statSync(cache).mode & 0o777, 0o700);
  t.ok(readdirSync(cache).length > 0, 'it is filled');
  rmSync(cache, { recursive: true });
  mkdirSync(cache);
  chmodSync(cache, 0o777);
  version();
  t.strictSame(readdirSync(cache), []);
});

t.test('each command loads only what it needs', async (t) => {
  const preload = join(tempDir(t), 'preload.mjs');
  writeFileSync(
    preload,
    `import { registerHooks } from 'node:module';
import { writeSync } from 'node:fs';
registerHooks({ load(url, context, next) { writeSync(1, 'LOADED ' + url + '\\n'); return next(url, context); } });\n`,
  );
  const loadedBy = async (...args: string[]): Promise<string> =>
    (await run(t, process.execPath, ['--import', preload, join(root, 'sidecar', 'bin.mjs'), ...args])).stdout;
  const large = [
    '@peculiar/x509',
    'undici',
    'prom-client',
    'pino',
    'yaml',
    'zod',
    '/sidecar/process/main.ts',
    '/ca/main.ts',
  ];
  const names = (text: string): string[] => large.filter((name) => text.includes(`/${name.replace(/^\//, '')}`));
  t.same(names(await loadedBy('--help')), [], '--help');
  t.same(names(await loadedBy('ca', '--help')), [], 'ca --help');
  t.same(names(await loadedBy('ca', 'ls', '--socket', '/nowhere/ca.sock')), [], 'ca ls');
  t.same(names(await loadedBy('inspect', '/nowhere.pem')), [], 'inspect');
  t.same(
    names(await loadedBy('sidecar', '--config', '/nowhere/sidecar.yaml', '--check')),
    ['yaml', 'zod'],
    'sidecar --check',
  );
});

/** The directories of which README.md and OPERATIONS.md say that the package does not have them. */
const repositoryOnly = /^(?:examples|charts|perf)\//;

/** Relative links of the documents among `paths` that lead out of the package. */
function deadLinks(paths: readonly string[]): string[] {
  const documents = paths.filter((one) => one.endsWith('.md'));
  return documents.flatMap((document) =>
    [...readFileSync(join(root, document), 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g)].flatMap(
      ([, link]) => {
        const target = join(dirname(document), link!);
        const isThere = paths.some((one) => one === target || one.startsWith(`${target}/`));
        return isThere || repositoryOnly.test(target) ? [] : [`${document}: ${link}`];
      },
    ),
  );
}

const hasNpm = spawnSync('npm', ['--version']).status === 0;

t.test('the npm package runs under plain node', { skip: hasNpm ? false : 'there is no npm here' }, async (t) => {
  const clone = tempDir(t);
  for (const name of [
    'package.json',
    'package-lock.json',
    'setup.mjs',
    'build.mjs',
    'tsconfig.json',
    'tsconfig.build.json',
  ])
    copyFileSync(join(root, name), join(clone, name));
  for (const name of ['LICENSE', ...readdirSync(root).filter((one) => one.endsWith('.md'))])
    copyFileSync(join(root, name), join(clone, name));
  for (const name of ['cert-agent', 'sidecar', 'pinned-node'])
    cpSync(join(root, name), join(clone, name), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(clone, 'node_modules'));
  // Set-up must find it current, whatever times the copies have.
  const before = new Date(0);
  utimesSync(join(clone, 'package-lock.json'), before, before);
  const packed = await run(t, 'npm', ['pack', '--json', '--loglevel=error'], { cwd: clone });
  t.equal(packed.code, 0, packed.stderr);
  const [{ filename, files }] = JSON.parse(packed.stdout.slice(packed.stdout.indexOf('[\n'))) as [
    { filename: string; files: { path: string }[] },
  ];
  const paths = files.map(({ path }) => path);
  for (const path of ['sidecar/bin.mjs', 'dist/sidecar/cli.js', 'package.json', 'LICENSE', 'README.md'])
    t.ok(paths.includes(path), path);
  t.same(
    paths.filter((path) => /\.ts$|^test\/|^perf\//.test(path)),
    [],
    'no source that Node would have to strip',
  );
  t.strictSame(deadLinks(paths), [], 'links of documents lead to what is in the package, or is said to be elsewhere');

  const place = tempDir(t);
  const { status } = spawnSync('tar', ['-xzf', join(clone, filename), '-C', place]);
  t.equal(status, 0);
  rmSync(clone, { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(place, 'node_modules'));
  const bin = join(place, 'package', 'sidecar', 'bin.mjs');
  // The cache of these tests is that of the clone.
  const env = { NODE_COMPILE_CACHE: '' };
  const packaged = (...args: string[]): ReturnType<typeof run> => run(t, process.execPath, [bin, ...args], { env });
  t.match(await packaged('--version'), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ });
  t.match(await packaged('ca', 'init', '--trust-domain', 'demo.test', '--dir', join(place, 'ca')), { code: 0 });
  t.match(await packaged('inspect', join(place, 'ca', 'bundle.pem')), { stdout: /demo\.test/ });
  const config = join(place, 'sidecar.yaml');
  writeFileSync(config, 'trustDomain: demo.test\nworklod: {}\n');
  t.match(
    await packaged('sidecar', '--config', config),
    { code: 2, stderr: /unknown key 'worklod'/ },
    'so does its reading process',
  );
});

t.test('the version is that of package.json', async (t) => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  t.equal((await runSallyport(t, ['--version'])).stdout, `${version}\n`);
});
