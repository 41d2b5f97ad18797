// Kind 17, every door: SIGUSR1 opens no debugger in any command or child process, and no environment variable does; the
// signals of log rotation reopen the access log instead.

import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { readRecords, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import {
  type Child,
  freePort,
  type Owner,
  runSallyport,
  startProcess,
  startSallyport,
  tempDir,
  until,
} from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));
const debuggerPort = 9229;

/** Whether something listens where Node's debugger would. */
function isDebuggerOpen(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(debuggerPort, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** A sidecar with an outbound port whose requests it refuses, each recorded. */
async function writeSidecar(t: Owner): Promise<{ dir: string; config: string; port: number; log: string }> {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'web', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  const port = await freePort();
  const config = join(dir, 'web.yaml');
  writeFileSync(
    config,
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: web }\nidentity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }\noutbound: [{ port: ${port} }]\naccessLog: access.log\nlimits: { drainMinimum: 0s }\n`,
  );
  return { dir, config, port, log: join(dir, 'access.log') };
}

const refusedRequest = (port: number): Promise<unknown> =>
  fetch(`http://127.0.0.1:${port}/`, { headers: { host: 'nobody' } });

/** Children of a process, and theirs. */
function descendants(pid: number): number[] {
  const file = `/proc/${pid}/task/${pid}/children`;
  const own = (existsSync(file) ? readFileSync(file, 'utf8') : '').trim().split(' ').filter(Boolean).map(Number);
  return own.flatMap((one) => [one, ...descendants(one)]);
}

/** The process that reads the configuration may have ended since it was listed. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

const isLinux = process.platform === 'linux';

t.test('SIGUSR1 opens no debugger in any long-running command or its children', async (t) => {
  // Another Node on this machine may be debugged meanwhile: then only what our processes print counts.
  const busy = await isDebuggerOpen();
  const { dir, config } = await writeSidecar(t);
  t.equal((await runSallyport(t, ['ca', 'init', '--trust-domain', 'demo.test', '--dir', join(dir, 'ca')])).code, 0);
  const caPort = await freePort();
  const agent = ['agent', '--ca', `https://127.0.0.1:${caPort}`, '--ca-bundle', join(dir, 'ca', 'bundle.pem')];
  const commands: [string, Child, RegExp][] = [
    [
      'ca serve',
      startSallyport(t, ['ca', 'serve', '--dir', join(dir, 'ca'), '--listen', `127.0.0.1:${caPort}`]),
      /"listening"|serves|listens/,
    ],
    ['sidecar', startSallyport(t, ['sidecar', '--config', config, '--workers', '2']), /"ready"/],
    [
      'agent',
      startSallyport(t, [...agent, '--token-file', join(dir, 'no.token'), '--out-dir', join(dir, 'run')]),
      /"code"/,
    ],
  ];
  for (const [name, child, started] of commands) {
    await child.waitFor(started);
    const pids = [child.process.pid!, ...(isLinux ? descendants(child.process.pid!) : [])];
    if (name === 'sidecar' && isLinux) t.ok(pids.length >= 2, 'the worker is running');
    for (const pid of pids) for (let i = 0; i < 3; i++) signal(pid, 'SIGUSR1');
    for (const pid of pids) signal(pid, 'SIGHUP');
  }
  // A signal is handled in one turn of the loop; each process has answered something after it.
  for (const [name, child] of commands) {
    t.equal(child.process.exitCode, null, `${name} continues`);
    t.equal(child.process.signalCode, null, name);
    t.notMatch(child.stderr(), /Debugger listening/, name);
  }
  if (!busy) t.notOk(await isDebuggerOpen());
  for (const [name, child] of commands) {
    await child.stop();
    t.notMatch(child.stderr(), /Debugger listening/, name);
  }
});

t.test('a debugger that a signal opened before the first line of code is closed', async (t) => {
  const { dir, config } = await writeSidecar(t);
  // What Node does on a signal that arrives before any of our code has run.
  const early = join(dir, 'early.mjs');
  writeFileSync(
    early,
    `import inspector from 'node:inspector';
inspector.open(0, '127.0.0.1');
process.argv.splice(1, 1, ${JSON.stringify(bin)}, 'sidecar', '--config', ${JSON.stringify(config)});
await import(${JSON.stringify(bin)});
setInterval(() => console.log('debugger ' + inspector.url()), 20).unref();
`,
  );
  const child = startProcess(t, process.execPath, [early]);
  await child.waitFor(/debugger ws:|debugger undefined/);
  await child.waitFor(/debugger undefined/);
  t.pass('the debugger is closed');
  await child.stop();
});

t.test('environment variables that would open something are refused', async (t) => {
  const { dir, config } = await writeSidecar(t);
  const start = (assignments: readonly string[], options: readonly string[] = []) => {
    const command = [process.execPath, ...options, bin, 'sidecar', '--config', config, '--check'];
    // Some of these options write files into the working directory.
    const child = startProcess(t, 'env', [...assignments, ...command], { cwd: dir });
    return child.exited.then((code) => ({ code, text: child.stderr() }));
  };
  const place = dirname(dirname(bin));
  const refused: [string[], string[], RegExp][] = [
    [
      ['NODE_OPTIONS=--inspect=127.0.0.1:0'],
      [],
      /sallyport: Node's option --inspect may give others access to this process/,
    ],
    [['NODE_OPTIONS=--max-old-space-size=200 --cpu-prof'], [], /option --cpu-prof/],
    [['NODE_OPTIONS=--heapsnapshot-signal=SIGUSR2'], [], /option --heapsnapshot-signal/],
    [['NODE_OPTIONS=--report-on-signal'], [], /option --report-on-signal/],
    [['NODE_OPTIONS=--tls-keylog=/dev/null'], [], /option --tls-keylog/],
    [['NODE_OPTIONS=--tls-min-v1.0'], [], /option --tls-min-v1\.0/],
    [['NODE_OPTIONS=--insecure_http_parser'], [], /option --insecure-http-parser/],
    [['NODE_OPTIONS=--require=node:fs'], [], /option --require/],
    [['NODE_OPTIONS=--import=node:fs'], [], /option --import/],
    [['NODE_OPTIONS="--tls-keylog=/dev/null"'], [], /NODE_OPTIONS with quotes or backslashes is refused/],
    [[], ['--inspect=127.0.0.1:0'], /option --inspect may give/],
    [['NODE_TLS_REJECT_UNAUTHORIZED=0'], [], /NODE_TLS_REJECT_UNAUTHORIZED=0 disables the verification/],
    [['NODE_DEBUG=tls,http'], [], /NODE_DEBUG logs the traffic/],
    [['NODE_PATH=/nowhere'], [], /NODE_PATH loads code/],
    [[`NODE_COMPILE_CACHE=${tempDir(t)}`], [], /NODE_COMPILE_CACHE outside of this installation would run/],
    [
      [`NODE_COMPILE_CACHE=${place}/${relative(place, tempDir(t))}`],
      [],
      /NODE_COMPILE_CACHE outside of this installation/,
    ],
  ];
  const answers = await Promise.all(refused.map(([assignments, options]) => start(assignments, options)));
  for (const [i, [assignments, options, message]] of refused.entries()) {
    t.equal(answers[i]!.code, 2, [...assignments, ...options].join(' '));
    t.match(answers[i]!.text, message);
    t.match(answers[i]!.text, /hint: start sallyport without it/);
  }
  const good = await start(['NODE_OPTIONS=--max-old-space-size=200 --no-warnings'], ['--disable-sigusr1']);
  t.equal(good.code, 0, good.text);
});

for (const signal of ['SIGUSR1', 'SIGHUP'] as const)
  t.test(`${signal} reopens an access log that was renamed, in workers too`, async (t) => {
    const { config, port, log } = await writeSidecar(t);
    const child = startSallyport(t, ['sidecar', '--config', config, '--workers', '2']);
    await child.waitFor(/"ready"/);
    await refusedRequest(port);
    await until(() => readRecords(log, 1), 'the first record');
    renameSync(log, `${log}.1`);
    process.kill(child.process.pid!, signal);
    await child.waitFor(/"access_log_reopened".*"access_log_reopened"/s);
    const [before, already] = [readRecordsOr(`${log}.1`).length, readRecordsOr(log).length];
    for (let i = 0; i < 20; i++) await refusedRequest(port);
    await until(() => readRecordsOr(log).length >= already + 20, 'records in the new file');
    t.equal(readRecordsOr(`${log}.1`).length, before, 'the renamed file is unchanged');
    await child.stop();
  });

function readRecordsOr(file: string): Record<string, unknown>[] {
  try {
    return readRecords(file, 0) ?? [];
  } catch {
    return [];
  }
}
