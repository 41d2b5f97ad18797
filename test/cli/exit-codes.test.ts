// Exit codes mean one thing in every command. The help of every command says what.

import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { type codes, SallyportError } from '../../cert-agent/base/errors.ts';
import { exitCodeOf, exitCodesText } from '../../sidecar/cli/terminal.ts';
import { runCommand } from '../fixtures/command.ts';
import { freePort, startSallyport, tempDir } from '../fixtures/process.ts';

t.test('errors of a command', async (t) => {
  const exitCode = (code: keyof typeof codes): number => exitCodeOf(new SallyportError(code, 'x'));
  for (const code of ['usage', 'config_unreadable', 'certificate_unreadable', 'bundle_empty', 'ca_missing'] as const)
    t.equal(exitCode(code), 2, code);
  for (const code of ['upstream_connect', 'upstream_tls', 'ca_unreachable', 'redis_unavailable'] as const)
    t.equal(exitCode(code), 3, code);
  for (const code of ['not_found', 'rotation_refused', 'port_in_use', 'ledger_behind'] as const)
    t.equal(exitCode(code), 1, code);
  t.equal(exitCodeOf(new Error('x')), 2, 'a fault of the program is no finding');
});

t.test('what does not respond is told from a finding', async (t) => {
  const [dir, port] = [tempDir(t), await freePort()];
  const admin = ['--admin', `127.0.0.1:${port}`];
  const cases: readonly (readonly string[])[] = [
    ...[
      ['status', ...admin],
      ['why', '--last', ...admin],
      ['denials', ...admin],
      ['policy', 'propose', ...admin],
    ],
    ...[
      ['policy', 'shadow-report', ...admin],
      ['inspect', `127.0.0.1:${port}`],
      ['inspect', `http://127.0.0.1:${port}`],
    ],
    ...[
      ['ca', 'ls'],
      ['ca', 'agents'],
      ['ca', 'deny-list'],
      ['ca', 'report'],
    ].map((one) => [...[...one, '--socket', join(dir, 'none.sock')]]),
  ];
  for (const args of cases) {
    const { code, stdout, stderr } = await runCommand(t, args);
    t.match({ code, stdout }, { code: 3, stdout: '' }, `${args.join(' ')}: ${stderr}`);
    t.match(stderr, /^error: .*\n(?:hint: .*\n)?$/);
  }
});

t.test('a settings file names the admin port of each command that asks one', async (t) => {
  const dir = tempDir(t);
  const files = {
    off: 'trustDomain: a.test\n',
    silent: `admin: ${await freePort()}\n`,
    socket: `admin: unix:${join(dir, 'none.sock')}\n`,
    wrong: 'admin: 70000\n',
    broken: 'admin: [\n',
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, `${name}.yaml`), text);
  const commands = [['status'], ['denials'], ['why', '--last'], ['policy', 'propose'], ['policy', 'shadow-report']];
  const ask = (args: readonly string[], file: string, ...more: string[]) =>
    runCommand(t, [...args, '--config', join(dir, file), ...more]);
  t.match(await ask(['status'], 'socket.yaml'), {
    code: 3,
    stderr: new RegExp(
      `cannot reach unix:${join(dir, 'none.sock')}: [\\s\\S]*hint: does the process with this admin socket`,
    ),
  });
  for (const args of commands) {
    const name = args.join(' ');
    t.match(await ask(args, 'off.yaml'), { code: 2, stdout: '', stderr: /off\.yaml has no 'admin'/ }, name);
    t.match(await ask(args, 'silent.yaml'), { code: 3, stdout: '', stderr: /cannot reach http:\/\/127/ }, name);
    t.match(
      await ask(args, 'off.yaml', '--admin', '127.0.0.1:1'),
      { code: 2, stderr: /'--config <file>' cannot be used with/ },
      name,
    );
  }
  t.match(await ask(['status'], 'socket.yaml'), { code: 3, stderr: /none\.sock/ });
  t.match(await ask(['status'], 'wrong.yaml'), { code: 2, stderr: /wrong\.yaml:1:8: admin: expected a port/ });
  t.match(await ask(['status'], 'broken.yaml'), { code: 2, stderr: /broken\.yaml:\d+:\d+: / });
  t.match(await ask(['status'], 'none.yaml'), { code: 2, stderr: /none\.yaml cannot be read/ });
});

t.test('a server that is no admin port is not what was asked for', async (t) => {
  const app = createServer((_, response) => response.end('hello'));
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const admin = ['--admin', `127.0.0.1:${(app.address() as AddressInfo).port}`];
  for (const args of [['denials'], ['why', '--last']])
    t.match(await runCommand(t, [...args, ...admin]), { code: 3, stdout: '', stderr: 'is no admin address' });
});

t.test('denials --follow goes on after an outage, and says what it may have missed', async (t) => {
  const line = (id: number): object => ({
    ...{ id: `d-${id}`, time: '2026-01-01T00:00:00.000Z', code: 'policy_denied', reason: '', policy: 'none' },
    ...{ from: 'spiffe://a/b', request: `GET /${id}` },
  });
  /** Newest first, as an admin port lists them. */
  const lists: (readonly object[])[] = [[], Array.from({ length: 1000 }, (_, i) => line(5000 - i)), [], [line(6000)]];
  let asked = 0;
  const admin = createServer((request, response) => {
    // The third is lost with its connection.
    if (++asked === 3) request.socket.destroy();
    else response.end(JSON.stringify(lists[Math.min(asked, 4) - 1]));
  });
  await new Promise<void>((resolve) => admin.listen(0, '127.0.0.1', resolve));
  t.teardown(() => admin.close().closeAllConnections());
  const at = `127.0.0.1:${(admin.address() as AddressInfo).port}`;
  const following = startSallyport(t, ['denials', '--follow', '--admin', at]);
  await following.waitFor(/GET \/6000/);
  const said = following.stderr();
  t.match(said, /some refusals were not seen here/, 'the first list was empty, and the second is full');
  t.match(said, /cannot reach .*; trying again\n/);
  t.match(said, / responds again/);
});

t.test('an unknown option is named before a missing one', async (t) => {
  const cases: [args: string[], unknown: string, missing: RegExp][] = [
    [['agent'], '--bundel', /required option '--ca <url>' not specified/],
    [['sidecar'], '--konfig', /required option '--config <file>' not specified/],
    [['ca', 'init'], '--domain', /required option '--trust-domain <name>' not specified/],
  ];
  for (const [args, unknown, missing] of cases) {
    t.match(await runCommand(t, [...args, unknown, 'x']), {
      code: 2,
      stderr: new RegExp(`unknown option '${unknown}'`),
    });
    t.match(await runCommand(t, args), { code: 2, stderr: missing });
  }
  t.match(await runCommand(t, ['sidecar', '--config', 'x', '--json']), { code: 2, stderr: /--json is for --check/ });
});

t.test('the help says what the exit codes mean', async (t) => {
  for (const args of [[], ['check'], ['ca'], ['ca', 'ls']]) {
    const { stdout } = await runCommand(t, [...args, '--help']);
    t.ok(stdout.includes(exitCodesText), args.join(' '));
  }
  const { stdout } = await runCommand(t, ['exec', '--help']);
  t.notOk(stdout.includes(exitCodesText), 'the app gives it');
});
