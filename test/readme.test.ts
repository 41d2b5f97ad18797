// The README runs as printed, and then GATEWAY.md and OPERATIONS.md, which go on from there: every block, in order, in an
// empty directory, by a shell. Only the ports are others, so that it runs beside whatever else is running, and `npx
// sallyport` is this clone's program without the time that npx takes. What ends it all comes last.

import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { parseAllDocuments } from 'yaml';
import { parseGatewaySettings } from '../sidecar/config/gateway-settings.ts';
import { readConfiguration } from '../sidecar/config/read.ts';
import { parseSettings } from '../sidecar/config/sidecar-settings.ts';
import { firstRequest } from './fixtures/first-request.ts';
import { compileCache, endWithUs, freePort, runSallyport, tempDir } from './fixtures/process.ts';

const root = fileURLToPath(new URL('../', import.meta.url));
const pages = ['README.md', 'GATEWAY.md', 'OPERATIONS.md'].map((name) => readFileSync(join(root, name), 'utf8'));
const ending = /^kill %1 .*\n/m;
const end = ending.exec(pages[0]!)![0];
const readme = `${pages.join('\n').replace(ending, '')}\n\`\`\`sh\n${end}\`\`\`\n`;
const blocks = [...readme.matchAll(/```(sh|yaml)\n([\s\S]*?)```/g)].map(([, kind, text]) => ({ kind, text: text! }));

/** The file that a block of YAML names in its first line. */
const fileOf = (text: string): string | undefined => /^# (\S+\.yaml)\n/.exec(text)?.[1];

/** Blocks that are a part of a file, or another of its kind; each has a test of its own below. */
const parts = blocks.filter(({ kind, text }) => kind === 'yaml' && fileOf(text) === undefined).map(({ text }) => text);

/** What ends with something else than 0, as the README says. */
const findings = [/^npx sallyport policy diff /, /^npx sallyport policy replay /];

const missing = ['bash', 'curl'].filter((name) => spawnSync(name, ['--version']).status !== 0);
const skip = missing.length > 0 ? `there is no ${missing.join(' and no ')} here` : false;

t.test('every block runs, in order', { skip, timeout: 280_000 }, async (t) => {
  const dir = tempDir(t);
  const bin = join(dir, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'npx'), `#!/bin/sh\nshift\nexec '${process.execPath}' '${root}sidecar/bin.mjs' "$@"\n`);
  // Whatever Node a user has starts the example's app.
  writeFileSync(join(bin, 'node'), `#!/bin/sh\nexec '${process.execPath}' "$@"\n`);
  for (const name of ['npx', 'node']) chmodSync(join(bin, name), 0o755);
  symlinkSync(join(root, 'examples'), join(dir, 'examples'));

  // The first block is the demo and this suite, which have tests of their own.
  const [first, ...rest] = blocks;
  t.match(first!.text, /^npm run demo .*\nnpm test .*\n$/);
  const printed = rest
    .map(({ kind, text }) => {
      const file = fileOf(text);
      return kind === 'sh'
        ? text
        : file === undefined
          ? ''
          : `mkdir -p "$(dirname ${file})"\ncat >${file} <<'END'\n${text}END\n`;
    })
    .join('');
  const numbers = [...new Set(printed.match(/\b(?:15\d{3}|1?8080)\b/g))];
  t.ok(numbers.length > 8, numbers.join(', '));
  const ports = new Map<string, string>();
  for (const one of numbers) ports.set(one, String(await freePort()));
  const script = printed.replace(/\b(?:15\d{3}|1?8080)\b/g, (one) => ports.get(one)!);
  const prelude = `trap 'echo "line $LINENO ended with $?" >>failed' ERR\n`;
  writeFileSync(join(dir, 'readme.sh'), prelude + script);

  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(NODE_OPTIONS|TAP_.*|npm_.*|SALLYPORT_.*)$/.test(name),
  );
  const shell = spawn('env', ['-u', 'NODE_OPTIONS', 'bash', 'readme.sh'], {
    cwd: dir,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...Object.fromEntries(kept),
      PATH: `${bin}:${process.env['PATH']}`,
      NODE_COMPILE_CACHE: compileCache,
      SALLYPORT_ADMIN: `http://127.0.0.1:${ports.get('15000')}`,
    },
  });
  endWithUs(shell, true);
  t.teardown(() => {
    try {
      process.kill(-shell.pid!, 'SIGKILL');
    } catch {
      // All of them have ended, as they should.
    }
  });
  let output = '';
  for (const stream of [shell.stdout, shell.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  await new Promise((resolve) => shell.once('close', resolve));

  // Lines of the script; what was there before it was changed is what the README says.
  const lines = (prelude + printed).split('\n');
  const failed = existsSync(join(dir, 'first/failed')) ? readFileSync(join(dir, 'first/failed'), 'utf8') : '';
  const found = [...failed.matchAll(/^line (\d+) ended with (\d+)$/gm)].map(([, line, code]) => ({
    line: lines[Number(line) - 1] ?? '',
    code,
  }));
  for (const { line, code } of found) {
    const isFinding = findings.some((one) => one.test(line));
    t.ok(isFinding && code === '1', `'${line}' ended with ${code}`);
  }
  t.equal(found.length, findings.length, 'a command that should find something does');
  for (const said of ['ready\n', 'two orders\n', 'RBAC: access denied', 'Jwt is missing'])
    t.ok(output.includes(said), `${said.trim()} is answered`);
  if (!t.passing()) t.comment(output);
  t.match(output, /DELETE \/orders from spiffe:\/\/demo\.test\/ns\/shop\/sa\/web was refused \[policy_denied\]/, 'why');
});

t.test("the first request of one's own service takes 12 commands from the clone", (t) => {
  const { commands, files, script } = firstRequest();
  t.ok(commands.length <= 12, commands.join('\n'));
  t.match(commands.at(-1), /^curl .* # two orders$/);
  t.strictSame(files, ['orders.yaml', 'policies/orders.yaml', 'web.yaml']);
  t.ok(readme.includes(script.slice(0, script.indexOf('\n'))));
  t.end();
});

t.test('an excerpt of a file is valid within that file', async (t) => {
  const dir = tempDir(t);
  const part = (start: string): string => {
    const found = parts.find((one) => one.startsWith(start));
    t.ok(found, start);
    tried.add(found ?? '');
    return found ?? '';
  };
  const tried = new Set<string>();
  const orders = /cat >orders\.yaml <<'END'\n([\s\S]*?)END\n/.exec(readme)![1]!;
  const gateway = blocks.find(({ text }) => fileOf(text) === 'gateway.yaml')!.text;
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'more.yaml'), orders + part('trustDomainAliases'));
  t.match((await readConfiguration(join(dir, 'more.yaml'))).settings, {
    trustDomainAliases: ['old.test'],
    numTrustedProxies: 1,
    extensionProviders: [{ name: 'my-authorizer', timeoutMs: 500 }],
    learn: { edges: 10_000 },
  });
  t.match(parseGatewaySettings(gateway + part('certificates: {'), 'gateway.yaml'), {
    numTrustedProxies: 1,
    gateway: {
      listeners: { 'default/my-api-gateway:8080': '127.0.0.1:18080' },
      redis: { url: 'rediss://redis.internal:6379' },
      securityHeaders: true,
    },
  });
  t.match(
    parseGatewaySettings(gateway.replace(/^documents: .*$/m, '') + part('documents:\n  kubernetes:'), 'gateway.yaml'),
    {
      gateway: { kubernetes: { namespaces: ['shop', 'edge'], lease: { name: 'sallyport-gateway' } } },
    },
  );
  // The gateway of `kubectl apply -k examples/kubernetes/watched`.
  const [{ data }] = parseAllDocuments(readFileSync(join(root, 'examples/kubernetes/watched/config.yaml'), 'utf8')).map(
    (one) => one.toJS(),
  ) as [{ data: Record<string, string> }];
  const watched = part('trustDomain: cluster.test');
  t.strictSame(
    parseGatewaySettings(watched, 'gateway.yaml'),
    parseGatewaySettings(data['gateway.yaml']!, 'gateway.yaml'),
  );
  t.match(parseSettings(orders + part('gateways:'), 'orders.yaml'), {
    gateways: ['spiffe://demo.test/ns/default/sa/my-api-gateway'],
  });
  writeFileSync(join(dir, 'policies/port.yaml'), part('apiVersion: security.istio.io/v1\nkind: PeerAuthentication'));
  writeFileSync(join(dir, 'orders.yaml'), orders);
  t.equal((await readConfiguration(join(dir, 'orders.yaml'))).documents.peerAuthentications.length, 1);
  t.equal(tried.size, parts.length, 'no excerpt is missing');
});

/** Commands of `ca` that have commands of their own. */
const caGroups: ReadonlySet<string> = new Set(['token', 'ledger', 'rotate', 'issuer', 'dns']);

t.test('every command has a help text with an example, and the options that the README uses', async (t) => {
  const lines = [...readme.matchAll(/^npx sallyport (.*?)(?: +#.*)?$/gm)].map((match) => match[1]!);
  t.ok(lines.length >= 8);
  await Promise.all(
    lines.map(async (line) => {
      const words = line.split(/\s+/);
      const depth = words[0] === 'ca' ? (caGroups.has(words[1]!) ? 3 : 2) : words[0] === 'policy' ? 2 : 1;
      const command = words.slice(0, depth);
      const { code, stdout } = await runSallyport(t, [...command, '--help']);
      t.equal(code, 0, line);
      t.match(stdout, /Example/, `${command.join(' ')} --help shows an example`);
      for (const option of words.filter((word) => word.startsWith('--')))
        t.ok(stdout.includes(option), `${command.join(' ')} knows ${option}`);
    }),
  );
});
