// The CA under many clients: how soon a revocation and a new bundle have reached all of them, how much memory a million
// certificates take, and what a large CRL costs.
//
//   npm run perf:ca
//   npm run perf:ca -- revocation    # one of issuance, revocation, bundle, memory, crl

import { fork } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { fileURLToPath } from 'node:url';
import { openOperator } from '../cert-agent/ca/operator/open.ts';
import { generateKey } from '../cert-agent/identity/keys.ts';
import { signCertificate } from '../cert-agent/identity/x509.ts';
import { type CaProcess, makeCa } from '../test/fixtures/ca-process.ts';
import { startEcho } from '../test/fixtures/echo.ts';
import { publicKeyOf } from '../test/fixtures/pki.ts';
import { type Child, freePort, runSallyport, startSallyport, tempDir, until } from '../test/fixtures/process.ts';
import type { Order, Report } from './ca-clients.ts';
import { CpuAccount } from './cpu.ts';

const owned: (() => unknown)[] = [];
const owner = { teardown: (run: () => unknown) => void owned.push(run) };
const ms = (value: number): string => `${Math.round(value)} ms`;
const atMs = (): number => Number(process.hrtime.bigint()) / 1e6;

interface Clients {
  readonly count: number;
  /** Says that the renewals may begin. */
  begin(): void;
  /** When all of them had seen the next change, or had ended. */
  done(): Promise<number>;
}

/** Starts a process of clients, and resolves once all are open. */
async function startClients(ca: CaProcess, order: Omit<Order, 'url' | 'bundleFile' | 'dir'>): Promise<Clients> {
  const dir = tempDir(owner);
  const child = fork(fileURLToPath(new URL('ca-clients.ts', import.meta.url)), { stdio: 'inherit' });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  owner.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const reports: ((report: Report) => void)[] = [];
  const next = (): Promise<Report> => new Promise((resolve) => reports.push(resolve));
  child.on('message', (report: Report) => reports.shift()?.(report));
  const opened = next();
  child.send({ ...order, url: ca.url, bundleFile: ca.bundleFile, dir } satisfies Order);
  const { count } = await opened;
  const begin = (): void => void child.send({});
  return { count, begin, done: async () => ((await next()) as Extract<Report, { kind: 'done' }>).atMs };
}

async function tokensFor(ca: CaProcess, names: readonly string[]): Promise<string[]> {
  const dir = tempDir(owner);
  const files = names.map((name) => join(dir, name));
  for (const [i, name] of names.entries()) await ca.writeToken(`spiffe://demo.test/ns/perf/sa/${name}`, files[i]!);
  return files;
}

async function command(ca: CaProcess, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await runSallyport(owner, [...args, '--dir', ca.directory]);
  if (code !== 0) throw new Error(`${args.join(' ')}: ${stderr}`);
  return stdout + stderr;
}

/** A sidecar with its own agent, and the port of its inbound listener. */
async function startSidecar(ca: CaProcess, name: string, app: number): Promise<{ port: number; child: Child }> {
  const [dir, port] = [tempDir(owner), await freePort()];
  const [token] = await tokensFor(ca, [name]);
  mkdirSync(join(dir, 'policies'));
  writeFileSync(
    join(dir, 'sidecar.yaml'),
    `trustDomain: demo.test
workload: { namespace: perf, serviceAccount: ${name} }
identity: { ca: { url: "${ca.url}", bundle: ${ca.bundleFile}, tokenFile: ${token}, outDir: run } }
policies: policies/
limits: { drainMinimum: 0s }
accessLog: access.log
inbound: [{ port: ${port}, bind: 127.0.0.1, app: 127.0.0.1:${app} }]
`,
  );
  const child = startSallyport(owner, ['sidecar', '--config', join(dir, 'sidecar.yaml')]);
  await child.waitFor(/"code":"listening"[^\n]*inbound/, 30_000);
  return { port, child };
}

/** Renewals a second of CPU time, and by the clock; each is in the store and in the ledger before its answer. */
async function measureIssuance(): Promise<void> {
  for (const fresh of [false, true]) {
    const ca = await makeCa(owner);
    const child = await ca.serve();
    const names = Array.from({ length: 100 }, (_, i) => `service-${i}`);
    const clients = await startClients(ca, { kind: 'renewals', tokens: await tokensFor(ca, names), each: 50, fresh });
    const cpu = new CpuAccount(child.process.pid!);
    const before = cpu.readNs();
    const began = atMs();
    clients.begin();
    const tookMs = (await clients.done()) - began;
    const usedMs = (cpu.readNs() - before) / 1e6;
    console.log(
      `issuance, ${clients.count} renewals on ${fresh ? 'new' : 'kept'} connections: ${Math.round(clients.count / (usedMs / 1000))} a second of CPU time ` +
        `(${(usedMs / clients.count).toFixed(2)} ms each), ${Math.round(clients.count / (tookMs / 1000))} a second by the clock`,
    );
    await child.stop();
  }
}

const sidecars = 4;
const connectionsToEach = 250;

/** From the command to the last cut connection and to the last acknowledgement. */
async function measureRevocation(): Promise<void> {
  const ca = await makeCa(owner);
  await ca.serve();
  const app = await startEcho(owner, 'app');
  const ports: number[] = [];
  for (let i = 0; i < sidecars; i++) ports.push((await startSidecar(ca, `service-${i}`, app)).port);
  const names = Array.from({ length: 100 - sidecars }, (_, i) => `agent-${i}`);
  const agents = await startClients(ca, { kind: 'agents', tokens: await tokensFor(ca, names), each: 1 });
  for (let i = 0; i < 3; i++) {
    const victim = `victim-${i}`;
    const tokens = await tokensFor(ca, [victim]);
    const clients = await startClients(ca, { kind: 'connections', tokens, each: connectionsToEach, ports });
    const { operator, close } = await openOperator({ dir: ca.directory });
    const [began, ended] = [atMs(), clients.done()];
    const { acknowledged } = await operator.revoke(`spiffe://demo.test/ns/perf/sa/${victim}`, 'perf', {
      waitMs: 25_000,
    });
    const answered = atMs();
    const cut = await ended;
    await close();
    const { by = 0, of = 0 } = acknowledged ?? {};
    console.log(
      `revocation, ${agents.count + sidecars} agents, ${clients.count} connections: the last was cut after ${ms(cut - began)}; ` +
        `acknowledged by ${by} of ${of} after ${ms(answered - began)}`,
    );
  }
}

/** From the command that changes the bundle to the last of 1,000 streams that has verified it. */
async function measureBundle(): Promise<void> {
  const ca = await makeCa(owner);
  await ca.serve();
  const names = Array.from({ length: 20 }, (_, i) => `streams-${i}`);
  const streams = await startClients(ca, { kind: 'streams', tokens: await tokensFor(ca, names), each: 50 });
  const { operator, close } = await openOperator({ dir: ca.directory });
  for (let i = 0; i < 3; i++) {
    await operator.rotate({ kind: 'root', step: 'prepare' });
    for (const step of ['distribute', 'cancel'] as const) {
      const [began, done] = [atMs(), streams.done()];
      await operator.rotate({ kind: 'root', step });
      const seen = (await done) - began;
      const all = await until(async () => {
        const { by, of } = await operator.rotationStatus();
        return (step === 'cancel' || by === of) && atMs();
      }, 'acknowledgements');
      const acknowledged = step === 'cancel' ? '' : `; acknowledged by all after ${ms(all - began)}`;
      console.log(`bundle, ${streams.count} streams (${step}): the last had it after ${ms(seen)}${acknowledged}`);
    }
  }
  await close();
}

const million = 1_000_000;
const serialOf = (i: number): string => `4${i.toString(16).padStart(31, '0')}`;

/** The CA's memory and its answers with a million valid certificates on record. */
async function measureMemory(): Promise<void> {
  const ca = await makeCa(owner);
  await fillStore(ca, million);
  const began = atMs();
  const child = await ca.serve();
  console.log(`memory, ${million} certificates: listening after ${ms(atMs() - began)}`);
  const show = (when: string): void => {
    const { residentMb, privateMb } = memoryOf(child.process.pid!);
    console.log(
      `memory, ${million} certificates, ${when}: resident ${Math.round(residentMb)} MB, private ${Math.round(privateMb)} MB`,
    );
  };
  show('at the start');
  const names = Array.from({ length: 50 }, (_, i) => `fresh-${i}`);
  await startClients(ca, { kind: 'agents', tokens: await tokensFor(ca, names), each: 1 });
  show('after 50 agents have joined');
  const serial = serialOf(500_000);
  for (const args of [
    ['ca', 'ls', '--expiring', '1m'],
    ['ca', 'show', serial],
    ['ca', 'revoke', serial],
  ]) {
    const start = atMs();
    await command(ca, args);
    console.log(`memory: ${args.join(' ')} took ${ms(atMs() - start)}`);
  }
  show('after these commands');
}

/** Certificates in the store as if the CA had issued them: 20,000 identities with 50 renewals each. */
async function fillStore(ca: CaProcess, count: number): Promise<void> {
  const key = generateKey();
  const now = Date.now();
  const certificate = await signCertificate(
    {
      ...{ subject: '', uris: ['spiffe://demo.test/ns/perf/sa/service-12345'], publicKey: publicKeyOf(key) },
      ...{ serial: '4'.repeat(32), notBefore: now, notAfter: now + 3_600_000, keyUsage: ['digitalSignature'] },
    },
    { key },
  );
  const store = new DatabaseSync(join(ca.directory, 'store.sqlite'));
  store.exec('PRAGMA synchronous = OFF; BEGIN');
  const insert = store.prepare(
    `INSERT INTO certificates (serial, id, key_hash, issued_at, not_before, not_after, evidence, reference, certificate, family)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  for (let i = 0; i < count; i++) {
    const first = i - (i % 50);
    const [evidence, reference] = i === first ? ['token', 'ab'.repeat(32)] : ['svid', serialOf(i - 1)];
    const id = `spiffe://demo.test/ns/perf/sa/service-${first / 50}`;
    insert.run(
      serialOf(i),
      id,
      'cd'.repeat(32),
      now,
      now,
      now + 86_400_000,
      evidence!,
      reference!,
      certificate,
      serialOf(first),
    );
  }
  store.exec('COMMIT');
  store.close();
}

function memoryOf(pid: number): { readonly residentMb: number; readonly privateMb: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kb = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN);
  return { residentMb: kb('Rss') / 1024, privateMb: (kb('Private_Clean') + kb('Private_Dirty')) / 1024 };
}

/** A CRL of 100,000 entries: how long it takes to make, what others wait for meanwhile, and then to serve. */
async function measureCrl(): Promise<void> {
  const entries = 100_000;
  const ca = await makeCa(owner);
  await fillStore(ca, entries);
  const store = new DatabaseSync(join(ca.directory, 'store.sqlite'));
  store.prepare('UPDATE certificates SET revoked_at = ?, reason = ?').run(Date.now(), 'keyCompromise');
  store.close();
  const port = await freePort();
  const child = await ca.serve(['--ocsp', `127.0.0.1:${port}`]);
  const url = `http://127.0.0.1:${port}/v1/crl`;
  let [longest, going] = [0, true];
  const others = (async () => {
    for (; going; await new Promise((resolve) => setTimeout(resolve, 5))) {
      const began = atMs();
      await (await fetch(`http://127.0.0.1:${port}/ocsp/AAAA`)).arrayBuffer();
      longest = Math.max(longest, atMs() - began);
    }
  })();
  const began = atMs();
  const first = await fetch(url);
  const { byteLength } = await first.arrayBuffer();
  const made = atMs() - began;
  going = false;
  await others;
  console.log(
    `crl, ${entries} entries, ${(byteLength / 1e6).toFixed(1)} MB: made and sent in ${ms(made)}; others waited for ${ms(longest)} at most`,
  );
  const rounds = 500;
  const headers = { 'if-none-match': first.headers.get('etag') ?? '' };
  const start = atMs();
  for (let i = 0; i < rounds; i++) await (await fetch(url, { headers })).arrayBuffer();
  console.log(`crl: unchanged in ${((atMs() - start) / rounds).toFixed(2)} ms each, with its HTTP`);
  const { residentMb } = memoryOf(child.process.pid!);
  console.log(`crl: the CA is resident with ${Math.round(residentMb)} MB`);
}

const measures = {
  issuance: measureIssuance,
  revocation: measureRevocation,
  bundle: measureBundle,
  memory: measureMemory,
  crl: measureCrl,
};
const [, , only] = process.argv;
try {
  for (const [name, measure] of Object.entries(measures)) if (only === undefined || only === name) await measure();
} finally {
  for (const end of owned.reverse()) await end();
}
process.exit(0);
