// A CA is killed at random moments while it issues, renews, revokes and rotates its issuer and its root. What it
// answered holds after the next start, and every start succeeds. More rounds: KILLS=1000 npx tap run --timeout=3600
// <this file>

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t from 'tap';
import { connectOperator } from '../../cert-agent/ca/operator/socket.ts';
import type { RotationStep } from '../../cert-agent/ca/rotation/rotation.ts';
import { type RotationState, readState } from '../../cert-agent/ca/rotation/state.ts';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { ask, makeCa, newKey } from '../fixtures/ca.ts';
import { runCommand } from '../fixtures/command.ts';
import { startSallyport } from '../fixtures/process.ts';

const kills = Number(process.env['KILLS'] ?? 4);

interface Issued {
  readonly id: string;
  readonly svid: { readonly cert: string; readonly key: string };
}

t.test('nothing that was confirmed is forgotten', { timeout: 60_000 + kills * 15_000 }, async (t) => {
  const dir = await makeCa(t);
  const socket = join(dir, 'ca.sock');
  /** By serial. */
  const issued = new Map<string, Issued>();
  const revoked = new Set<string>();
  const counts = { issued: 0, renewed: 0, revoked: 0, steps: 0 };
  let next = 0;

  const roots = (): string => readFileSync(join(dir, 'bundle.pem'), 'utf8');
  const start = async () => {
    const ca = startSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']);
    const [, port] = await ca.waitFor(/"listening","address":"127\.0\.0\.1:(\d+)"/, 20_000);
    return { ca, port: Number(port) };
  };

  const record = (id: string, key: string, { serial, chain }: { serial: string; chain: string[] }): void => {
    const cert = formatPem(chain.map((one) => Buffer.from(one, 'base64')));
    issued.set(serial, { id, svid: { cert, key } });
  };
  async function issue(port: number): Promise<void> {
    const id = `spiffe://demo.test/w/${next++ % 50}`;
    const { token } = await connectOperator(socket).createToken(id, 600_000);
    const { csr, keyPem } = await newKey(generateKey());
    const answer = await ask(port, roots(), { path: '/v1/svid', body: { token, csr } });
    if (answer.status !== 200) throw new Error(answer.text);
    record(id, keyPem, answer.json);
    counts.issued++;
  }
  async function renew(port: number): Promise<void> {
    const [serial, old] = [...issued].findLast(([serial]) => !revoked.has(serial)) ?? [];
    if (serial === undefined || old === undefined) return;
    const { csr, keyPem } = await newKey();
    const answer = await ask(port, roots(), { path: '/v1/svid/renew', body: { csr }, svid: old.svid });
    // It may have been revoked meanwhile.
    if (answer.status !== 200) return;
    record(old.id, keyPem, answer.json);
    counts.renewed++;
  }
  async function revoke(): Promise<void> {
    const serial = [...issued.keys()].find((one) => !revoked.has(one));
    if (serial === undefined) return;
    await connectOperator(socket).revoke(serial, 'a test');
    revoked.add(serial);
    counts.revoked++;
  }
  const steps: readonly ['issuer' | 'root', RotationStep][] = [
    ['issuer', 'activate'],
    ['root', 'prepare'],
    ['root', 'distribute'],
    ['root', 'activate'],
    ['root', 'cancel'],
    ['issuer', 'request'],
    ['issuer', 'cancel'],
  ];
  let turn = 0;
  async function rotate(): Promise<void> {
    const [kind, step] = steps[turn++ % steps.length]!;
    const operator = connectOperator(socket);
    const except = [...new Set([...issued.values()].map(({ id }) => id))];
    // A step that cannot be taken now is refused; which ones can depends on where the last kill came.
    await operator.rotate({ kind, step, except }).then(() => counts.steps++, refusedOnly);
    const { state } = await operator.rotationStatus();
    if (state?.step === 'draining') await drained(except);
  }
  /** Certificates of the old root are still valid, so that only by name the root can be removed. */
  async function drained(except: readonly string[]): Promise<void> {
    await connectOperator(socket)
      .rotate({ kind: 'root', step: 'remove', except })
      .then(() => counts.steps++, refusedOnly);
  }

  // On a busy machine a kill often comes before the first answer.
  const isEnough = (): boolean => counts.issued > kills && counts.steps > 0;
  for (let round = 0; round < kills || !isEnough(); round++) {
    const { ca, port } = await start();
    let going = true;
    const loop = async (...acts: ((port: number) => Promise<void>)[]): Promise<void> => {
      for (let i = 0; going; i++) await acts[i % acts.length]!(port);
    };
    const loops = [loop(issue, renew), loop(issue, revoke), loop(rotate)];
    // What the kill interrupts was not answered.
    const all = loops.map((one) =>
      one.catch((error: Error) => {
        if (going) t.fail(`round ${round}: ${error.message}`);
      }),
    );
    // The root is removed after connections had 5 s to retire.
    const drains = readState(dir)?.step === 'draining';
    await pause((drains ? 4800 : 200) + Math.random() * 800);
    going = false;
    ca.process.kill('SIGKILL');
    await ca.exited;
    await Promise.all(all);
    const verified = await runCommand(t, ['ca', 'ledger', 'verify', '--dir', dir]);
    if (verified.code !== 0) t.fail(`round ${round}: ${verified.stdout}${verified.stderr}`);
    const rotated = await runCommand(t, [
      'ca',
      'ledger',
      'show',
      '--dir',
      dir,
      '--act',
      'rotate',
      '--limit',
      '1000',
      '--json',
    ]);
    const unrecorded = contradictionOf(readState(dir), rotated.stdout);
    if (unrecorded !== undefined) t.fail(`round ${round}: ${unrecorded}`);
    const { stdout, stderr, code } = await runCommand(t, ['ca', 'ls', '--dir', dir, '--all', '--json']);
    if (code !== 0) return t.fail(`round ${round}: ${stderr}`);
    const found = new Map(
      (JSON.parse(stdout) as { serial: string; revoked?: object }[]).map((one) => [one.serial, one]),
    );
    const lost = [...issued.keys()].filter((serial) => !found.has(serial));
    const forgotten = [...revoked].filter((serial) => found.get(serial)?.revoked === undefined);
    if (lost.length + forgotten.length > 0)
      t.strictSame({ lost, forgotten }, { lost: [], forgotten: [] }, `round ${round}`);
  }

  const { ca, port } = await start();
  await issue(port);
  t.comment(JSON.stringify({ kills, ...counts }));
  t.ok(isEnough(), 'some requests were answered');
  t.equal(await ca.stop(), 0);
  t.notOk(existsSync(socket));
});

interface ShownStep {
  readonly answer: string;
  readonly details: { readonly kind: string; readonly step?: string };
}

/** What a directory says that its ledger does not explain: only a step that began may have left it otherwise. */
function contradictionOf(state: RotationState | undefined, shown: string): string | undefined {
  let possible: (string | undefined)[] = [undefined];
  let isOpen = false;
  for (const { answer, details } of JSON.parse(shown) as ShownStep[]) {
    const { kind, step } = details;
    if (answer === 'begun') possible.push(stateAfter[`${kind} ${step}`]);
    else if (answer !== 'refused') possible = [stateAfter[`${kind} ${answer}`]];
    if (answer !== 'refused') isOpen = answer === 'begun';
  }
  const found = state === undefined ? undefined : `${state.kind} ${state.step}`;
  if (possible.includes(found) || (isOpen && unfinished.has(String(found)))) return undefined;
  return `the directory is ${found}, but the ledger ends with what leads to ${possible.join(' or ')}`;
}

/** What the next start finishes. */
const unfinished: ReadonlySet<string> = new Set([
  'issuer prepared',
  'issuer activating',
  'root activating',
  'root removing',
]);

/** Steps that end a rotation are not here. */
const stateAfter: Readonly<Record<string, string>> = {
  'root prepare': 'root prepared',
  'root distribute': 'root distributed',
  'root activate': 'root draining',
  'issuer request': 'issuer requested',
};

function refusedOnly(error: { code?: string }): void {
  if (error.code !== 'rotation_refused') throw error;
}
